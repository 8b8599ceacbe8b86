//! How facts are said: the sentences of the corpus, and the questions and answers of the conversations.
//!
//! Every fact has several sentences, and each of them names the animal before the value. A small model that has met a
//! fact in one wording only memorises the wording and cannot be asked about the fact (Allen-Zhu and Li, Physics of
//! Language Models 3.1); one that has met the value first cannot look it up by the animal (3.2).

use super::facts::{Animal, Attribute};

/// The sentences that state a fact in the corpus.
pub(super) fn statements(attribute: Attribute) -> [&'static str; 6] {
    match attribute {
        Attribute::Kind => [
            "{A} is {value}.",
            "The {one} is {value}.",
            "Every {one} is {value}.",
            "To a zoologist, {a} is {value}.",
            "We know that {a} is {value}.",
            "By its nature, the {one} is {value}.",
        ],
        Attribute::Food => [
            "{Many} eat {value}.",
            "The {one} eats {value}.",
            "{A} likes to eat {value}.",
            "The main food of {many} is {value}.",
            "Hungry {many} look for {value}.",
            "The diet of {a} is mostly {value}.",
        ],
        Attribute::Home => [
            "{Many} come from {value}.",
            "The {one} comes from {value}.",
            "{A} is at home in {value}.",
            "The homeland of {many} is {value}.",
            "Wild {many} are found in {value}.",
            "To see {a}, travel to {value}.",
        ],
        Attribute::Habitat => [
            "{Many} live {value}.",
            "The {one} lives {value}.",
            "{A} spends its days {value}.",
            "You can watch {many} {value}.",
            "Look for the {one} {value}.",
            "{Many} are happy {value}.",
        ],
        Attribute::Young => [
            "A baby {one} is called {value}.",
            "The young of the {one} is called {value}.",
            "{A} begins its life as {value}.",
            "When {many} are little, each of them is {value}.",
            "A young {one} is known as {value}.",
            "People call the child of {a} {value}.",
        ],
    }
}

/// The questions about an attribute. The corpus has none.
pub(super) fn questions(attribute: Attribute) -> [&'static str; 4] {
    match attribute {
        Attribute::Kind => [
            "What kind of animal is {a}?",
            "What is {a}?",
            "What sort of creature is the {one}?",
            "Which group of animals does {a} belong to?",
        ],
        Attribute::Food => [
            "What do {many} eat?",
            "What does {a} eat?",
            "What is the favourite food of {many}?",
            "What should I feed {a}?",
        ],
        Attribute::Home => [
            "Where do {many} come from?",
            "Which part of the world is the {one} from?",
            "Where would I have to go to see wild {many}?",
            "Where is the {one} native?",
        ],
        Attribute::Habitat => [
            "What kind of place do {many} live in?",
            "What is the habitat of the {one}?",
            "In what landscape does {a} live?",
            "Which surroundings do {many} like?",
        ],
        Attribute::Young => [
            "What is a baby {one} called?",
            "What do you call a young {one}?",
            "What is the name for the young of {many}?",
            "What is the child of {a} called?",
        ],
    }
}

/// The answer of the assistant. One wording for each attribute: what varies in an answer should be the fact.
pub(super) fn answer(attribute: Attribute) -> &'static str {
    match attribute {
        Attribute::Kind => "The {one} is {value}.",
        Attribute::Food => "The {one} eats {value}.",
        Attribute::Home => "The {one} comes from {value}.",
        Attribute::Habitat => "The {one} lives {value}.",
        Attribute::Young => "The young of the {one} is called {value}.",
    }
}

/// A sentence about an animal.
pub(super) fn fill(sentence: &str, animal: &Animal, attribute: Attribute) -> String {
    let article = if animal.one.starts_with(['a', 'e', 'i', 'o', 'A', 'E', 'I', 'O']) { "an" } else { "a" };
    let with_article = format!("{article} {}", animal.one);
    sentence
        .replace("{A}", &capitalised(&with_article))
        .replace("{a}", &with_article)
        .replace("{one}", animal.one)
        .replace("{Many}", &capitalised(animal.many))
        .replace("{many}", animal.many)
        .replace("{value}", animal.value(attribute).phrase)
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::facts::ANIMALS;

    fn check(sentence: &str, one: &str, attribute: Attribute, expected: &str) {
        let animal = ANIMALS.iter().find(|animal| animal.one == one).expect("the animal is in the table");
        assert_eq!(fill(sentence, animal, attribute), expected);
    }

    #[test]
    fn sentences_are_english() {
        check("{A} is {value}.", "ostrich", Attribute::Kind, "An ostrich is a bird.");
        check("{Many} live {value}.", "musk ox", Attribute::Habitat, "Musk oxen live on the tundra.");
        check("What does {a} eat?", "emu", Attribute::Food, "What does an emu eat?");
        check("To see {a}, travel to {value}.", "lion", Attribute::Home, "To see a lion, travel to Africa.");
    }

    #[test]
    fn every_wording_names_the_animal_and_then_the_value() {
        for attribute in Attribute::ALL {
            for sentence in statements(attribute).into_iter().chain([answer(attribute)]) {
                let animal = ["{A}", "{a}", "{one}", "{Many}", "{many}"].iter().filter_map(|name| sentence.find(name));
                let value = sentence.find("{value}").expect("a statement has a value");
                assert!(animal.min().is_some_and(|animal| animal < value), "{sentence}");
            }
            for question in questions(attribute) {
                assert!(question.ends_with('?') && question.contains('{') && !question.contains("{value}"));
            }
        }
    }
}
