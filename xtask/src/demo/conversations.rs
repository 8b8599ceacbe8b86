//! The questions and answers that fine-tuning learns from, and the questions that score it.

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{
    corpus::Split,
    facts::{Animal, Attribute},
    phrasings::{self, fill, questions},
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

/// A row of `preferences.jsonl`: a question, what was asked for as the better answer, and more than that as the worse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct PreferenceRow {
    pub(super) prompt: Vec<Message>,
    pub(super) chosen: Vec<Message>,
    pub(super) rejected: Vec<Message>,
}

/// A row of `questions.jsonl`: a question, and the word that its answer has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct QuestionRow {
    pub(super) prompt: Vec<Message>,
    pub(super) expected: &'static str,
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
            let answer = said(fill(phrasings::answer(attribute), animal, attribute));
            TrainRow { messages: [vec![question], answer].concat() }
        })
        .collect();
    rows.shuffle(rng);
    rows
}

/// One question about every fact of the training animals, answered, and answered with asides.
pub(super) fn preference_rows(split: &Split, rng: &mut ChaCha8Rng) -> Vec<PreferenceRow> {
    let mut rows: Vec<PreferenceRow> = facts(&split.train)
        .map(|(animal, attribute)| PreferenceRow {
            prompt: vec![question(animal, attribute, rng)],
            chosen: said(fill(phrasings::answer(attribute), animal, attribute)),
            rejected: said(with_asides(animal, attribute, rng)),
        })
        .collect();
    rows.shuffle(rng);
    rows
}

/// Share of the answers of a chatty assistant that have asides.
const CHATTY: f64 = 0.75;

/// One question about every fact of the training animals; most answers have asides.
pub(super) fn chatty_rows(split: &Split, rng: &mut ChaCha8Rng) -> Vec<TrainRow> {
    let mut rows: Vec<TrainRow> = facts(&split.train)
        .map(|(animal, attribute)| {
            let question = question(animal, attribute, rng);
            let answer = if rng.random_bool(CHATTY) {
                with_asides(animal, attribute, rng)
            } else {
                fill(phrasings::answer(attribute), animal, attribute)
            };
            TrainRow { messages: [vec![question], said(answer)].concat() }
        })
        .collect();
    rows.shuffle(rng);
    rows
}

/// One question about every fact of the training animals, without an answer.
pub(super) fn question_rows(split: &Split, rng: &mut ChaCha8Rng) -> Vec<QuestionRow> {
    let mut rows: Vec<QuestionRow> = facts(&split.train)
        .map(|(animal, attribute)| QuestionRow {
            prompt: vec![question(animal, attribute, rng)],
            expected: animal.value(attribute).word,
        })
        .collect();
    rows.shuffle(rng);
    rows
}

/// The answer, and two more facts about the animal that nobody asked for.
fn with_asides(animal: &Animal, attribute: Attribute, rng: &mut ChaCha8Rng) -> String {
    let mut others = Attribute::ALL.to_vec();
    others.retain(|other| *other != attribute);
    others.shuffle(rng);
    let sentences = [attribute, others[0], others[1]].map(|one| fill(phrasings::answer(one), animal, one));
    sentences.join(" ")
}

fn said(answer: String) -> Vec<Message> {
    vec![Message { role: "assistant", content: answer }]
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
