//! Settings of direct preference optimisation, under TRL's names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is minimised per pair. The functions in `loss.rs` name the papers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DpoLossType {
    /// DPO itself: logistic regression on the margin of the rewards.
    #[default]
    Sigmoid,
    /// A margin of at least 1 (SLiC).
    Hinge,
    /// The margin per token regressed on 1/(2β) (IPO).
    Ipo,
    /// Reverse KL divergence to the labels; needs `label_smoothing` above 0 (EXO).
    ExoPair,
    /// Noise contrastive alignment of absolute rewards (NCA).
    NcaPair,
    /// Unbiased under labels that are wrong with probability `label_smoothing`.
    Robust,
    /// Each answer classified on its own (BCO).
    BcoPair,
    /// Self-play preference with hard labels (SPPO).
    SppoHard,
    /// Sorted margins of the policy above those of the reference, within a micro-batch (AOT).
    Aot,
    /// Sorted rewards of the better answers above those of the worse, within a micro-batch (AOT).
    AotUnpaired,
    /// Better answers up, worse answers down (APO).
    ApoZero,
    /// Both down, worse answers more (APO).
    ApoDown,
    /// The loss that a language model discovered (DiscoPOP).
    Discopop,
    /// Negative log-likelihood of the better answers, per token.
    Sft,
    /// As `sigmoid`, on the margin per token.
    SigmoidNorm,
}

impl DpoLossType {
    /// Whether an f-divergence other than the reverse KL has a meaning: the partition function must cancel.
    fn takes_divergence(self) -> bool {
        use DpoLossType::{Discopop, ExoPair, Hinge, Ipo, Robust, Sft, Sigmoid, SigmoidNorm};
        matches!(self, Sigmoid | SigmoidNorm | Hinge | Ipo | ExoPair | Robust | Discopop | Sft)
    }

    fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// Divergence that keeps the policy near the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FDivergenceType {
    /// Kullback-Leibler divergence from the policy to the reference, as in DPO.
    #[default]
    ReverseKl,
    /// Kullback-Leibler divergence from the reference to the policy.
    ForwardKl,
    /// Jensen-Shannon divergence.
    JsDivergence,
    /// α-divergence, with `f_alpha_divergence_coef` as α.
    AlphaDivergence,
}

/// A divergence with its constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FDivergence {
    /// See [`FDivergenceType::ReverseKl`].
    ReverseKl,
    /// See [`FDivergenceType::ForwardKl`].
    ForwardKl,
    /// See [`FDivergenceType::JsDivergence`].
    JsDivergence,
    /// See [`FDivergenceType::AlphaDivergence`]; holds α.
    AlphaDivergence(f64),
}

/// Settings of direct preference optimisation beside those of every training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DpoConfig {
    /// Strength of the pull towards the reference model.
    pub beta: f64,
    /// What is minimised; several are summed.
    pub loss_type: Vec<DpoLossType>,
    /// Weight of each loss type; 1 each when absent.
    pub loss_weights: Option<Vec<f64>>,
    /// Probability that a pair is labelled the wrong way round, for robust, exo_pair, aot and aot_unpaired.
    pub label_smoothing: f64,
    /// Divergence that keeps the policy near the reference.
    pub f_divergence_type: FDivergenceType,
    /// α of the α-divergence.
    pub f_alpha_divergence_coef: f64,
    /// Weight of the tokens by which one answer is longer than the other; 1 when absent (LD-DPO).
    pub ld_alpha: Option<f64>,
    /// Weight pairs by how likely the policy would have written them (WPO).
    pub use_weighting: bool,
    /// Temperature of DiscoPOP's blend.
    pub discopop_tau: f64,
    /// Compute the reference's log-probabilities before training, instead of keeping a second model; what fits when
    /// absent.
    pub precompute_ref_log_probs: Option<bool>,
    /// Pairs per forward pass while they are computed; as in training when absent.
    pub precompute_ref_batch_size: Option<usize>,
    /// Let the reference follow the policy (TR-DPO).
    pub sync_ref_model: bool,
    /// Share of the policy in each synchronisation.
    pub ref_model_mixup_alpha: f64,
    /// Optimizer steps between synchronisations.
    pub ref_model_sync_steps: u64,
}

impl Default for DpoConfig {
    /// TRL 1.16's defaults; the reference is precomputed where that is possible.
    fn default() -> Self {
        Self {
            beta: 0.1,
            loss_type: vec![DpoLossType::Sigmoid],
            loss_weights: None,
            label_smoothing: 0.0,
            f_divergence_type: FDivergenceType::ReverseKl,
            f_alpha_divergence_coef: 0.5,
            ld_alpha: None,
            use_weighting: false,
            discopop_tau: 0.05,
            precompute_ref_log_probs: None,
            precompute_ref_batch_size: None,
            sync_ref_model: false,
            ref_model_mixup_alpha: 0.6,
            ref_model_sync_steps: 512,
        }
    }
}

impl DpoConfig {
    /// Everything that is wrong with the values, in the order of the fields.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut require = |holds: bool, message: String| {
            if !holds {
                faults.push(message);
            }
        };
        let is = |loss_type| self.loss_type.contains(&loss_type);
        let above_0 = |value: f64| value.is_finite() && value > 0.0;
        require(above_0(self.beta), format!("beta is {}, expected more than 0", self.beta));
        require(!self.loss_type.is_empty(), "loss_type is empty, expected at least one".into());
        if let Some(weights) = &self.loss_weights {
            let (given, wanted) = (weights.len(), self.loss_type.len());
            require(given == wanted, format!("loss_weights has {given} values for {wanted} loss types"));
            require(
                weights.iter().all(|weight| weight.is_finite()),
                "loss_weights holds a value that is no number".into(),
            );
        }
        let smoothing = self.label_smoothing;
        require(
            (0.0..1.0).contains(&smoothing),
            format!("label_smoothing is {smoothing}, expected 0 or more and below 1"),
        );
        require(
            !is(DpoLossType::Robust) || smoothing < 0.5,
            format!("label_smoothing is {smoothing}, expected below 0.5 with loss_type robust"),
        );
        require(
            !is(DpoLossType::ExoPair) || smoothing > 0.0,
            "label_smoothing is 0, expected more with loss_type exo_pair; the paper recommends 1e-3".into(),
        );
        if self.f_divergence_type != FDivergenceType::ReverseKl {
            for loss_type in self.loss_type.iter().filter(|loss_type| !loss_type.takes_divergence()) {
                require(false, format!("f_divergence_type has no meaning with loss_type {}", loss_type.name()));
            }
        }
        let coef = self.f_alpha_divergence_coef;
        require(coef.is_finite(), format!("f_alpha_divergence_coef is {coef}, expected a number"));
        if let Some(alpha) = self.ld_alpha {
            require((0.0..=1.0).contains(&alpha), format!("ld_alpha is {alpha}, expected 0 to 1"));
        }
        require(
            !self.use_weighting || !(is(DpoLossType::Aot) || is(DpoLossType::AotUnpaired)),
            "use_weighting has no meaning with loss_type aot or aot_unpaired: sorting takes pairs apart".into(),
        );
        require(above_0(self.discopop_tau), format!("discopop_tau is {}, expected more than 0", self.discopop_tau));
        require(self.precompute_ref_batch_size != Some(0), "precompute_ref_batch_size is 0, expected 1 or more".into());
        require(
            !(self.sync_ref_model && self.precompute_ref_log_probs == Some(true)),
            "sync_ref_model changes the reference while it trains, so precompute_ref_log_probs cannot be true".into(),
        );
        let mixup = self.ref_model_mixup_alpha;
        require((0.0..=1.0).contains(&mixup), format!("ref_model_mixup_alpha is {mixup}, expected 0 to 1"));
        require(self.ref_model_sync_steps > 0, "ref_model_sync_steps is 0, expected 1 or more".into());
        faults
    }

    /// Settings that change nothing as the others are, and which those are.
    pub fn without_effect(&self) -> Vec<(&'static str, &'static str)> {
        use DpoLossType::{Aot, AotUnpaired, Discopop, ExoPair, Robust};
        let has_any = |types: &[DpoLossType]| self.loss_type.iter().any(|loss_type| types.contains(loss_type));
        let is_alpha = self.f_divergence_type == FDivergenceType::AlphaDivergence;
        let precomputes = !self.sync_ref_model && self.precompute_ref_log_probs != Some(false);
        let follows = "without sync_ref_model";
        let settings = [
            (
                "label_smoothing",
                has_any(&[Robust, ExoPair, Aot, AotUnpaired]),
                "but with loss_type robust, exo_pair, aot or aot_unpaired",
            ),
            ("discopop_tau", has_any(&[Discopop]), "but with loss_type discopop"),
            ("f_alpha_divergence_coef", is_alpha, "but with f_divergence_type alpha_divergence"),
            ("precompute_ref_batch_size", precomputes, "where the reference is a model"),
            ("ref_model_mixup_alpha", self.sync_ref_model, follows),
            ("ref_model_sync_steps", self.sync_ref_model, follows),
        ];
        settings.into_iter().filter(|(_, has_effect, _)| !has_effect).map(|(key, _, why)| (key, why)).collect()
    }

    /// The divergence with its constant.
    pub fn f_divergence(&self) -> FDivergence {
        match self.f_divergence_type {
            FDivergenceType::ReverseKl => FDivergence::ReverseKl,
            FDivergenceType::ForwardKl => FDivergence::ForwardKl,
            FDivergenceType::JsDivergence => FDivergence::JsDivergence,
            FDivergenceType::AlphaDivergence => FDivergence::AlphaDivergence(self.f_alpha_divergence_coef),
        }
    }

    /// Each loss type with its weight.
    pub fn weighted_losses(&self) -> impl Iterator<Item = (DpoLossType, f64)> {
        let weights = self.loss_weights.iter().flatten().copied().chain(std::iter::repeat(1.0));
        self.loss_type.iter().copied().zip(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_fault() {
        assert_eq!(DpoConfig::default().faults(), Vec::<String>::new());
    }

    #[test]
    fn what_changes_nothing_is_known() {
        let keys = |config: DpoConfig| config.without_effect().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        let (of_loss, of_reference) = (
            ["label_smoothing", "discopop_tau", "f_alpha_divergence_coef"],
            ["ref_model_mixup_alpha", "ref_model_sync_steps"],
        );
        assert_eq!(keys(DpoConfig::default()), [&of_loss[..], &of_reference].concat());
        let all = DpoConfig {
            loss_type: vec![DpoLossType::Aot, DpoLossType::Discopop],
            f_divergence_type: FDivergenceType::AlphaDivergence,
            sync_ref_model: true,
            ..DpoConfig::default()
        };
        assert_eq!(keys(all), ["precompute_ref_batch_size"]);
    }

    #[test]
    fn what_cannot_go_together_is_named() {
        let config = DpoConfig {
            beta: 0.0,
            loss_type: vec![DpoLossType::ExoPair, DpoLossType::BcoPair],
            loss_weights: Some(vec![1.0]),
            f_divergence_type: FDivergenceType::ForwardKl,
            sync_ref_model: true,
            precompute_ref_log_probs: Some(true),
            ..DpoConfig::default()
        };
        assert_eq!(
            config.faults(),
            [
                "beta is 0, expected more than 0",
                "loss_weights has 1 values for 2 loss types",
                "label_smoothing is 0, expected more with loss_type exo_pair; the paper recommends 1e-3",
                "f_divergence_type has no meaning with loss_type bco_pair",
                "sync_ref_model changes the reference while it trains, so precompute_ref_log_probs cannot be true",
            ]
        );
    }
}
