//! Characters that stand for a place in a text and occur nowhere else in it.

use crate::Conversation;

/// Two characters that occur in none of the texts.
///
/// They are letters of a script that few write (Yi), so that no template trims, escapes or changes them as it might
/// control or private-use characters.
pub(crate) fn absent_letters(source: &str, conversation: &Conversation) -> Option<[char; 2]> {
    const FIRST: u32 = 0xa000;
    const COUNT: usize = 1165;
    let mut used = [false; COUNT];
    let mut look = |text: &str| {
        // All of them start with the bytes 0xea 0x80 to 0xea 0x92, so most texts are passed over at once.
        if text.as_bytes().contains(&0xea) {
            for character in text.chars() {
                let index = u32::from(character).wrapping_sub(FIRST) as usize;
                if index < COUNT {
                    used[index] = true;
                }
            }
        }
    };
    look(source);
    conversation.visit_strings(&mut look);
    let mut absent = (0..COUNT).filter(|index| !used[*index]).filter_map(|index| char::from_u32(FIRST + index as u32));
    Some([absent.next()?, absent.next()?])
}
