//! The questions and answers that fine-tuning learns from, and the questions that score it.

use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{
    corpus::Split,
    facts::{Animal, Attribute},
    phrasings::{self, SHORT_ANSWER, fill, questions},
};

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Message {
    pub(super) role: &'static str,
    pub(super) content: String,
}

/// A row of `train.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct TrainRow {
    pub(super) messages: Vec<Message>,
}

/// A row of `preferences.jsonl`: a question, the value alone as the better answer, and the sentence as the worse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct PreferenceRow {
    pub(super) prompt: Vec<Message>,
    pub(super) chosen: Vec<Message>,
    pub(super) rejected: Vec<Message>,
}

/// A row of `heldout.jsonl`: a question, and how its answer is judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct HeldOutRow {
    pub(super) messages: Vec<Message>,
    pub(super) animal: &'static str,
    pub(super) attribute: &'static str,
    /// What the answer must contain as whole words.
    pub(super) expected: &'static str,
    /// The attribute's other values: an answer that contains one of them is wrong.
    pub(super) wrong: Vec<&'static str>,
}

/// One question about every fact of the training animals, in one of its wordings, with its answer.
pub(super) fn train_rows(split: &Split, rng: &mut ChaCha8Rng) -> Vec<TrainRow> {
    let mut rows: Vec<TrainRow> = facts(&split.train)
        .map(|(animal, attribute)| {
            let question = question(animal, attribute, rng);
            let answer = Message { role: "assistant", content: fill(phrasings::answer(attribute), animal, attribute) };
            TrainRow { messages: vec![question, answer] }
        })
        .collect();
    rows.shuffle(rng);
    rows
}

/// One question about every fact of the training animals, answered in short and in a sentence.
pub(super) fn preference_rows(split: &Split, rng: &mut ChaCha8Rng) -> Vec<PreferenceRow> {
    let mut rows: Vec<PreferenceRow> = facts(&split.train)
        .map(|(animal, attribute)| {
            let answer = |sentence| vec![Message { role: "assistant", content: fill(sentence, animal, attribute) }];
            PreferenceRow {
                prompt: vec![question(animal, attribute, rng)],
                chosen: answer(SHORT_ANSWER),
                rejected: answer(phrasings::answer(attribute)),
            }
        })
        .collect();
    rows.shuffle(rng);
    rows
}

/// One question about every fact of the held-out animals.
pub(super) fn held_out_rows(split: &Split, rng: &mut ChaCha8Rng) -> Vec<HeldOutRow> {
    let mut rows: Vec<HeldOutRow> = facts(&split.held_out)
        .map(|(animal, attribute)| {
            let expected = animal.value(attribute).word;
            let others = attribute.values().iter().map(|value| value.word).filter(|word| *word != expected);
            HeldOutRow {
                messages: vec![question(animal, attribute, rng)],
                animal: animal.one,
                attribute: attribute.name(),
                expected,
                wrong: others.collect(),
            }
        })
        .collect();
    rows.shuffle(rng);
    rows
}

fn facts<'a>(animals: &'a [&'static Animal]) -> impl Iterator<Item = (&'static Animal, Attribute)> + 'a {
    animals.iter().flat_map(|animal| Attribute::ALL.map(|attribute| (*animal, attribute)))
}

fn question(animal: &Animal, attribute: Attribute, rng: &mut ChaCha8Rng) -> Message {
    let wordings = questions(attribute);
    let wording = wordings.choose(rng).expect("an attribute has questions");
    Message { role: "user", content: fill(wording, animal, attribute) }
}
