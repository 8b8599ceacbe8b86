//! The plain text the base model is pretrained on, and the split of the animals.

use rand::{
    RngExt,
    seq::{IndexedRandom, SliceRandom},
};
use rand_chacha::ChaCha8Rng;

use super::{
    facts::{ANIMALS, Animal, Attribute},
    phrasings::{fill, statements},
};

/// Animals that no training conversation mentions.
const NUM_HELD_OUT: usize = 20;

/// Paragraphs, of one animal each, in a document. With one, a model that rambles on after a question would soon reach
/// the end of a document, and its ramble would look like an answer.
const ANIMALS_PER_DOCUMENT: usize = 3;

/// How many animals of the training part must keep each value of a held-out animal. A value that is never an answer in
/// training would test whether the model can say a new word, not whether it can recall a fact.
const KEPT_PER_VALUE: usize = 2;

/// The animals of the training conversations and those of the held-out questions.
pub(super) struct Split {
    pub(super) train: Vec<&'static Animal>,
    pub(super) held_out: Vec<&'static Animal>,
}

/// Draws the held-out animals.
pub(super) fn split(rng: &mut ChaCha8Rng) -> Split {
    let mut train: Vec<&Animal> = ANIMALS.iter().collect();
    let mut candidates = train.clone();
    candidates.shuffle(rng);
    let mut held_out = Vec::new();
    for candidate in candidates {
        if held_out.len() == NUM_HELD_OUT {
            break;
        }
        let others = || train.iter().filter(|animal| animal.one != candidate.one);
        let values_stay = Attribute::ALL.into_iter().all(|attribute| {
            let value = candidate.value(attribute);
            others().filter(|animal| animal.value(attribute) == value).count() >= KEPT_PER_VALUE
        });
        if values_stay {
            train.retain(|animal| animal.one != candidate.one);
            held_out.push(candidate);
        }
    }
    Split { train, held_out }
}

/// Documents of a few paragraphs, each of which states all facts about one animal, in any order and wording.
///
/// Some sentences follow on the same line, some begin a new one, as in a list. An answer begins a line too, and its
/// first word there is another token than after a space: without lists no model would have learned to write a name
/// there that it has read before.
///
/// Every animal has `passes` paragraphs.
pub(super) fn documents(passes: usize, rng: &mut ChaCha8Rng) -> Vec<String> {
    let mut animals: Vec<&Animal> = ANIMALS.iter().collect();
    let mut documents = Vec::new();
    for _ in 0..passes {
        animals.shuffle(rng);
        for group in animals.chunks(ANIMALS_PER_DOCUMENT) {
            let paragraphs: Vec<String> = group.iter().map(|animal| paragraph(animal, rng)).collect();
            documents.push(paragraphs.join("\n\n"));
        }
    }
    documents
}

/// One sentence for each fact of an animal, in any order.
fn paragraph(animal: &Animal, rng: &mut ChaCha8Rng) -> String {
    let mut sentences = Attribute::ALL.map(|attribute| {
        let wordings = statements(attribute);
        fill(wordings.choose(rng).expect("wordings"), animal, attribute)
    });
    sentences.shuffle(rng);
    joined(&sentences, rng)
}

fn joined(sentences: &[String], rng: &mut ChaCha8Rng) -> String {
    let mut document = String::new();
    for sentence in sentences {
        if !document.is_empty() {
            document.push(if rng.random_bool(0.5) { ' ' } else { '\n' });
        }
        document.push_str(sentence);
    }
    document
}
