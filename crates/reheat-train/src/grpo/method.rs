//! The objective of group relative policy optimisation on completions.

use burn::tensor::Tensor;
use reheat_kernels::{TokenDerivatives, TokenLogprobs};
use serde_json::{Map, Value};

use super::entropy::EntropyControl;
use super::{GrpoConfig, GrpoLoss, GrpoTokens, Normalizer, Ratios, group_advantages, grpo_loss};
use crate::method::settings_of;
use crate::rollout::numbers;
use crate::{Advantages, Judged, Measures, RolloutBatch, RolloutObjective, RolloutTraining};

/// Name of the entropy bonus' weight in a checkpoint.
const ENTROPY: &str = "entropy_control";

/// Group relative policy optimisation on prompts.
pub type Grpo = RolloutTraining<GrpoObjective>;

/// What group relative policy optimisation minimises, and the weight of an entropy bonus that may change with each step.
#[derive(Debug)]
pub struct GrpoObjective {
    config: GrpoConfig,
    entropy: EntropyControl,
}

impl From<GrpoConfig> for GrpoObjective {
    fn from(config: GrpoConfig) -> Self {
        Self { entropy: EntropyControl::new(&config), config }
    }
}

impl GrpoObjective {
    /// The micro-batch's part of the step's loss.
    fn loss(&self, logprobs: Tensor<1>, entropy: Tensor<1>, batch: &RolloutBatch) -> GrpoLoss {
        let device = logprobs.device().inner();
        let tokens = GrpoTokens {
            logprobs: batch.side_by_side(logprobs),
            old_logprobs: batch.old_logprobs(&device),
            ref_logprobs: batch.ref_logprobs(&device),
            entropy: batch.side_by_side(entropy),
            completion_mask: batch.completion_mask(&device),
            advantages: batch.advantages(&device),
        };
        let normalizer = Normalizer {
            accumulation_steps: batch.accumulation_steps() as f64,
            num_items_in_batch: batch.num_items_in_batch(),
            max_completion_length: batch.max_completion_length() as f64,
        };
        grpo_loss(&tokens, &self.config, self.entropy.applied(&self.config), &normalizer)
    }
}

impl RolloutObjective for GrpoObjective {
    const NAME: &'static str = "grpo";

    fn settings(&self) -> Map<String, Value> {
        settings_of(&self.config)
    }

    fn faults(&self) -> Vec<String> {
        self.config.faults()
    }

    fn beta(&self) -> f64 {
        self.config.beta
    }

    fn advantages(&self, judged: &Judged) -> Advantages {
        group_advantages(judged.rewards, judged.weights, judged.num_generations, &self.config)
    }

    fn derivatives(&self, batch: &RolloutBatch, tokens: &TokenLogprobs) -> TokenDerivatives {
        let logprobs = tokens.logprobs.clone().autodiff().require_grad();
        let of_logprobs = |gradients| logprobs.grad(gradients).unwrap_or_else(|| tokens.logprobs.zeros_like());
        if !self.config.has_entropy_bonus() {
            let gradients = self.loss(logprobs.clone(), tokens.entropy.clone(), batch).loss.backward();
            return of_logprobs(&gradients).into();
        }
        let entropy = tokens.entropy.clone().autodiff().require_grad();
        let gradients = self.loss(logprobs.clone(), entropy.clone(), batch).loss.backward();
        TokenDerivatives { logprobs: of_logprobs(&gradients), entropy: entropy.grad(&gradients) }
    }

    fn measure(&self, batch: &RolloutBatch, tokens: &TokenLogprobs) -> Measures {
        let GrpoLoss { loss, policy_loss, kl, ratios, entropy_mask } =
            self.loss(tokens.logprobs.clone(), tokens.entropy.clone(), batch);
        let first = |values: Tensor<1>| f64::from(numbers(values)[0]);
        let mut measures = Measures::new(first(loss));
        if let Some(kl) = kl {
            measures = measures.with("kl", batch.masked_sum(&numbers(kl)), batch.num_items() as f64);
        }
        measures = match ratios {
            Ratios::Clipped { low, high } => batch.measure_clipping(measures, &numbers(low), &numbers(high)),
            Ratios::Capped(capped) => {
                let (sum, count) = batch.sum_and_count(&numbers(capped));
                measures.with("cispo_clip_ratio", sum, count)
            }
            Ratios::Weighed(phi) => {
                let (sum, count) = batch.sum_and_count(&numbers(phi));
                measures.with("vespo/phi_seq_mean", sum, count)
            }
            Ratios::Gated => measures,
        };
        if self.config.has_entropy_bonus() {
            measures = measures.with("policy_loss", first(policy_loss), 1.0);
            let entropy = batch.side_by_side(tokens.entropy.clone()) * entropy_mask.clone();
            let (sum, count) = (first(entropy.sum()), first(entropy_mask.sum()));
            self.entropy.observe(&self.config, sum, count, batch.is_last_of_step());
            if batch.is_last_of_step() {
                measures = measures.with("entropy_coef", self.entropy.coef(), 1.0);
            }
        }
        measures
    }

    fn state(&self) -> Map<String, Value> {
        self.entropy.state(&self.config).map(|value| (ENTROPY.to_owned(), value)).into_iter().collect()
    }

    fn restore(&mut self, values: &mut Map<String, Value>) -> Result<(), String> {
        self.entropy.restore(values, ENTROPY)
    }
}
