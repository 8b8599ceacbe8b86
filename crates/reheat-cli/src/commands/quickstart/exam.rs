//! The questions that no training row answers, put to a model.

use console::style;
use reheat_chat::ChatTemplate;
use reheat_generate::{Flow, GenerateConfig};
use reheat_model::Qwen2;
use reheat_tokenizer::Tokenizer;

use crate::{commands::chat::Chat, demo::HeldOut};

/// Questions that are shown with their answers.
const SHOWN: usize = 5;
/// Longest answer in tokens.
const MAX_NEW_TOKENS: usize = 40;

/// What counts as a good answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standard {
    /// The right value, whatever else is said.
    Right,
    /// The right value in no more than one sentence.
    RightAndBrief,
}

impl Standard {
    fn accepts(self, question: &HeldOut, answer: &str) -> bool {
        question.is_right(answer) && (self == Self::Right || is_brief(answer))
    }
}

/// No more than one sentence.
fn is_brief(answer: &str) -> bool {
    answer.matches(['.', '!', '?']).count() <= 1
}

/// The answers to all held-out questions.
pub(super) struct Exam {
    answers: Vec<String>,
    /// Share of good answers.
    pub(super) score: f64,
}

impl Exam {
    /// Asks every question in a chat of its own.
    pub(super) fn of(
        model: Qwen2,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        questions: &[HeldOut],
        standard: Standard,
    ) -> anyhow::Result<Self> {
        let config = GenerateConfig {
            max_new_tokens: MAX_NEW_TOKENS,
            temperature: 0.0,
            eos_token_ids: tokenizer.eos_ids().to_vec(),
            ..GenerateConfig::default()
        };
        let mut chat = Chat::new(model, tokenizer.clone(), template.clone(), config);
        let answers = questions
            .iter()
            .map(|question| {
                chat.reset(None);
                chat.say(question.question(), &mut |_| Flow::Continue)
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let good =
            questions.iter().zip(&answers).filter(|(question, answer)| standard.accepts(question, answer)).count();
        Ok(Self { score: good as f64 / questions.len() as f64, answers })
    }
}

/// A few questions with the answers of each model.
pub(super) fn show(questions: &[HeldOut], exams: &[(&str, &Exam)], standard: Standard) {
    for (index, question) in questions.iter().enumerate().take(SHOWN) {
        eprintln!("  {}", style(question.question()).cyan().for_stderr());
        for (name, exam) in exams {
            let answer = exam.answers[index].split_whitespace().collect::<Vec<_>>().join(" ");
            let mark = if standard.accepts(question, &answer) { style("✓").green() } else { style("✗").red() };
            eprintln!("    {name:<6}{} {}", mark.for_stderr(), console::truncate_str(&answer, 100, "…"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sentence_is_brief() {
        assert!(is_brief("The lion eats meat."));
        assert!(is_brief("The lion eats meat"));
        assert!(!is_brief("The lion eats meat. The lion is a mammal."));
    }
}
