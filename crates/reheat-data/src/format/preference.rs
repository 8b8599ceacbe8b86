//! The prompt that two answers share, and preferences as single answers.

use super::Turns;
use crate::RowProblem;

/// Splits the common beginning off two answers, as TRL's `extract_prompt`.
///
/// Messages are compared whole, text by characters; a space before the split goes to the answers, because tokenizers
/// join it to the word after it. Where one answer is the beginning of the other, its last message or character stays
/// with the answers, so that none is empty.
///
/// # Errors
/// If one is text and the other messages, or both are the same.
pub(crate) fn extract_prompt(chosen: Turns, rejected: Turns) -> Result<(Turns, Turns, Turns), RowProblem> {
    if chosen == rejected {
        return Err(RowProblem::SameAnswers);
    }
    match (chosen, rejected) {
        (Turns::Text(chosen), Turns::Text(rejected)) => {
            let (prompt, answer) = chosen.split_at(common_text(&chosen, &rejected));
            let rest = rejected[prompt.len()..].to_owned();
            Ok((Turns::Text(prompt.to_owned()), Turns::Text(answer.to_owned()), Turns::Text(rest)))
        }
        (Turns::Messages(mut prompt), Turns::Messages(mut rejected)) => {
            let common = prompt.iter().zip(&rejected).take_while(|(left, right)| left == right).count();
            let common = common.min(prompt.len().min(rejected.len()).saturating_sub(1));
            let chosen = prompt.split_off(common);
            Ok((Turns::Messages(prompt), Turns::Messages(chosen), Turns::Messages(rejected.split_off(common))))
        }
        _ => Err(RowProblem::WrongType {
            field: "rejected".to_owned(),
            expected: "of the same type as `chosen`",
            found: "text beside messages".to_owned(),
        }),
    }
}

/// Bytes of the common beginning that becomes the prompt.
fn common_text(left: &str, right: &str) -> usize {
    let difference = left.char_indices().zip(right.chars()).find(|((_, left), right)| left != right);
    match difference {
        Some(((index, _), _)) => index - usize::from(left[..index].ends_with(' ')),
        None => {
            let shorter = if left.len() < right.len() { left } else { right };
            shorter.char_indices().next_back().map_or(0, |(index, _)| index)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn split(chosen: &str, rejected: &str) -> Option<[String; 3]> {
        let (prompt, chosen, rejected) =
            extract_prompt(Turns::Text(chosen.into()), Turns::Text(rejected.into())).ok()?;
        Some([prompt, chosen, rejected].map(|turns| turns.into_value().as_str().unwrap().to_owned()))
    }

    #[test]
    fn the_space_before_the_answers_is_theirs() {
        let split = |chosen, rejected| split(chosen, rejected).unwrap();
        assert_eq!(split("The sky is blue.", "The sky is green."), ["The sky is", " blue.", " green."]);
        assert_eq!(split("ab", "ac"), ["a", "b", "c"]);
        assert_eq!(split("é", "è"), ["", "é", "è"]);
    }

    #[test]
    fn equal_answers_are_no_preference_and_a_shorter_one_is() {
        assert_eq!(split("same", "same"), None);
        assert_eq!(split("same", "same and more").unwrap(), ["sam", "e", "e and more"]);
    }

    #[test]
    fn messages_are_compared_whole() {
        let turns = |answer: &str| {
            let messages = json!([{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]);
            Turns::Messages(serde_json::from_value(messages).unwrap())
        };
        let (prompt, chosen, _) = extract_prompt(turns("yes"), turns("yes and no")).unwrap();
        assert_eq!(prompt.into_value(), json!([{"role": "user", "content": "?"}]));
        assert_eq!(chosen.into_value(), json!([{"role": "assistant", "content": "yes"}]));
    }
}
