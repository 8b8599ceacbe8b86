//! What a person should know while preferences are learned.

use crate::LogRow;

use super::{DpoConfig, DpoLossType};

/// Largest loss or reward that rounding explains at the first step, where the policy is the reference: two forward
/// passes in f32 over hundreds of tokens, cut into other batches.
const FIRST_STEP_TOLERANCE: f64 = 1e-3;

/// Steps over which the likelihood of the better answers is averaged.
const WINDOW: usize = 10;

/// Nats below the reference, on average per answer, at which the better answers count as pushed away.
const FALLEN: f64 = -1.0;

/// Something to tell.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum DpoNotice {
    /// The first step starts where it must: policy and reference agree.
    StartsAtReference {
        /// Loss of the first step.
        loss: f64,
        /// `ln 2`, where the loss types say what it has to be.
        expected: Option<f64>,
    },
    /// The first step does not start at the reference.
    StartsElsewhere {
        /// Loss of the first step.
        loss: f64,
        /// Mean log-ratio of the better answers, in nats; 0 where policy and reference agree.
        chosen_logratio: f64,
    },
    /// The better answers have become less likely than they were under the reference.
    ChosenLikelihoodFalls {
        /// The step at which it showed.
        step: u64,
        /// Mean log-ratio over the last steps, in nats.
        logratio: f64,
    },
}

impl std::fmt::Display for DpoNotice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::StartsAtReference { loss, expected: Some(_) } => {
                write!(f, "the first loss is {loss:.6}, ln 2: the policy starts at the reference, as it must")
            }
            Self::StartsAtReference { loss, expected: None } => {
                write!(
                    f,
                    "the first loss is {loss:.6} with rewards of 0: the policy starts at the reference, as it must"
                )
            }
            Self::StartsElsewhere { loss, chosen_logratio } => write!(
                f,
                "the first loss is {loss:.6}, and the better answers start {chosen_logratio:+.4} nats from the reference \
                 instead of 0: is the reference another model?"
            ),
            Self::ChosenLikelihoodFalls { step, logratio } => write!(
                f,
                "at step {step} the better answers are {:.1} times less likely than under the reference ({logratio:+.2} \
                 nats): the margin grows because the worse ones fall faster. A lower learning_rate, a higher beta, or \
                 loss_type sigmoid sft holds them",
                (-logratio).exp()
            ),
        }
    }
}

/// Looks at the steps of a run, the first and those where something goes wrong.
#[derive(Debug, Clone)]
pub struct DpoWatch {
    beta: f64,
    /// Whether the loss of a policy that is its reference is `ln 2`.
    starts_at_ln_2: bool,
    first_seen: bool,
    fall_told: bool,
    logratios: Vec<f64>,
}

impl DpoWatch {
    /// A watch over a run with these settings, from its first step on.
    pub fn new(config: &DpoConfig) -> Self {
        let losses: Vec<_> = config.weighted_losses().collect();
        let starts_at_ln_2 = !config.use_weighting
            && losses.iter().all(|(loss_type, weight)| {
                matches!(loss_type, DpoLossType::Sigmoid | DpoLossType::SigmoidNorm) && *weight == 1.0
            })
            && losses.len() == 1;
        Self { beta: config.beta, starts_at_ln_2, first_seen: false, fall_told: false, logratios: Vec::new() }
    }

    /// Takes the numbers of a step and gives what there is to tell.
    pub fn observe(&mut self, row: &LogRow) -> Option<DpoNotice> {
        let chosen = row.metric("rewards/chosen")? / self.beta;
        let rejected = row.metric("rewards/rejected")? / self.beta;
        if !std::mem::replace(&mut self.first_seen, true) && row.step == 1 {
            let ln_2 = std::f64::consts::LN_2;
            let near = |value: f64| value.abs() <= FIRST_STEP_TOLERANCE;
            let agree = near(chosen) && near(rejected) && (!self.starts_at_ln_2 || near(row.loss - ln_2));
            return Some(if agree {
                DpoNotice::StartsAtReference { loss: row.loss, expected: self.starts_at_ln_2.then_some(ln_2) }
            } else {
                DpoNotice::StartsElsewhere { loss: row.loss, chosen_logratio: chosen }
            });
        }
        self.logratios.push(chosen);
        let window = self.logratios.len().checked_sub(WINDOW)?;
        let logratio = self.logratios[window..].iter().sum::<f64>() / WINDOW as f64;
        if self.fall_told || logratio > FALLEN {
            return None;
        }
        self.fall_told = true;
        Some(DpoNotice::ChosenLikelihoodFalls { step: row.step, logratio })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64, loss: f64, chosen: f64) -> LogRow {
        let metrics = [("rewards/chosen", chosen), ("rewards/rejected", 2.0 * chosen)];
        LogRow {
            step,
            loss,
            grad_norm: 1.0,
            learning_rate: 1e-6,
            metrics: metrics.map(|(name, value)| (name.to_owned(), value)).into(),
            num_tokens: 0,
            epoch: 0.0,
            tokens_per_second: 0.0,
        }
    }

    #[test]
    fn the_first_loss_is_ln_2_or_said_not_to_be() {
        let watch = DpoWatch::new(&DpoConfig::default());
        let at_reference = watch.clone().observe(&row(1, std::f64::consts::LN_2, 0.0)).unwrap();
        assert!(at_reference.to_string().starts_with("the first loss is 0.693147, ln 2"));
        let elsewhere = watch.clone().observe(&row(1, 0.6, 0.2)).unwrap();
        assert_eq!(elsewhere, DpoNotice::StartsElsewhere { loss: 0.6, chosen_logratio: 2.0 });
        // A run that is taken up again has no first step.
        assert_eq!(watch.clone().observe(&row(7, 0.6, 0.2)), None);
    }

    #[test]
    fn a_falling_likelihood_is_told_once() {
        let mut watch = DpoWatch::new(&DpoConfig::default());
        let notices: Vec<_> =
            (1..40).filter_map(|step| watch.observe(&row(step, 0.69, -0.02 * (step - 1) as f64))).collect();
        let [_, DpoNotice::ChosenLikelihoodFalls { step, logratio }] = notices[..] else { panic!("{notices:?}") };
        // The mean of -0.2·(s-1) over the ten steps up to s first reaches -1 at s = 11.
        assert_eq!((step, (logratio * 1e6).round() / 1e6), (11, -1.1));
    }
}
