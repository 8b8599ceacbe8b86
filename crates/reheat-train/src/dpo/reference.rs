//! The reference: what the policy is kept near.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::Tensor;
use reheat_data::{Batch, PreferencePair};
use reheat_model::{Qwen2, for_each_parameter, map_parameters};
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};

use super::{DpoBatch, ReferenceLogprobs};
use crate::{Checkpointing, ModelPass, TrainError, checkpoint};

/// Where the reference's log-probabilities come from.
#[derive(Debug)]
pub enum Reference {
    /// Known for every pair before training begins ([`precompute_reference`]).
    Precomputed(Vec<ReferenceLogprobs>),
    /// A second model, which may follow the policy.
    Model(Box<Qwen2>),
}

/// The weights by which a reference that follows the policy differs from its beginning.
pub(crate) fn followed_weights(reference: &Qwen2) -> BTreeMap<String, Tensor<1>> {
    let mut weights = BTreeMap::new();
    for_each_parameter(reference, "", |name, _shape, values| {
        if reference.trains(name) {
            weights.insert(name.to_owned(), values);
        }
    });
    weights
}

/// The reference with the weights that [`followed_weights`] gave.
///
/// # Errors
/// If a weight is missing or of another size; the reference is then as it was there.
pub(crate) fn with_followed_weights(
    reference: Qwen2,
    weights: BTreeMap<String, Tensor<1>>,
) -> (Qwen2, Result<(), String>) {
    let required: BTreeSet<String> = followed_weights(&reference).into_keys().collect();
    let (reference, taken) = checkpoint::take_weights(reference, weights, &required);
    (reference, taken.map_err(|reason| format!("the reference model: {reason}")))
}

/// Log-probabilities of every pair under `model`, from the cache where they are known.
///
/// `ld_alpha` is that of [`DpoConfig`](crate::DpoConfig).
/// The cache is a directory of files named after what they hold: a digest of the weights, of the pairs, and of what
/// else the sums depend on. `progress` is told the number of pairs done.
///
/// # Errors
/// If the cache cannot be written.
pub fn precompute_reference(
    model: &Qwen2,
    pairs: &[PreferencePair],
    ld_alpha: Option<f64>,
    batch_size: usize,
    cache: Option<&Path>,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<ReferenceLogprobs>, TrainError> {
    let file = cache.map(|dir| dir.join(format!("{}.safetensors", content_digest(model, pairs, ld_alpha))));
    if let Some(known) = file.as_deref().and_then(|file| read_cache(file, pairs.len())) {
        progress(pairs.len());
        return Ok(known);
    }
    let mut all = Vec::with_capacity(pairs.len());
    for chunk in pairs.chunks(batch_size.max(1)) {
        all.extend(reference_logprobs(model, &DpoBatch::new(chunk.iter()), ld_alpha));
        progress(all.len());
    }
    if let Some(file) = file {
        write_cache(&file, &all)?;
    }
    Ok(all)
}

/// Log-probabilities of a batch's answers under `model`.
pub(super) fn reference_logprobs(model: &Qwen2, batch: &DpoBatch, ld_alpha: Option<f64>) -> Vec<ReferenceLogprobs> {
    let logprobs = sequence_tokens(model, &batch.answers.sequences);
    let sums = batch.answer_sums(logprobs, ld_alpha); // [2 * pairs]
    let sums = sums.into_data().try_to_vec::<f32>().expect("log-probabilities are f32");
    let (chosen, rejected) = sums.split_at(batch.num_pairs());
    chosen
        .iter()
        .zip(rejected)
        .map(|(chosen, rejected)| ReferenceLogprobs { chosen: *chosen, rejected: *rejected })
        .collect()
}

/// Log-probabilities of the labels under `model`, `[tokens]`, without gradients.
fn sequence_tokens(model: &Qwen2, batch: &Batch) -> Tensor<1> {
    ModelPass::new(model, Checkpointing::Recompute).forward(batch).logprobs
}

/// `π_ref ← α·π + (1-α)·π_ref` (Gorbatovski et al. 2024, TR-DPO, arXiv:2404.09656).
pub(crate) fn mix(reference: Qwen2, policy: &Qwen2, alpha: f64) -> Qwen2 {
    let mut values = BTreeMap::new();
    for_each_parameter(policy, "", |name, _shape, value| {
        // What is frozen is the same in both, and shared.
        if policy.trains(name) {
            values.insert(name.to_owned(), value);
        }
    });
    let mixed = map_parameters(reference, "", |name, old| match values.remove(name) {
        Some(new) => old * (1.0 - alpha) + new * alpha,
        None => old,
    });
    mixed.with_token_rows_written()
}

/// Hex digest of everything that the log-probabilities depend on.
fn content_digest(model: &Qwen2, pairs: &[PreferencePair], ld_alpha: Option<f64>) -> String {
    let mut digest = Sha256::new();
    digest.update(env!("CARGO_PKG_VERSION"));
    digest.update(format!("{ld_alpha:?}"));
    digest.update(format!("{:?}{:?}", model.config(), model.compute()));
    for_each_parameter(model, "", |name, shape, value| {
        digest.update(format!("{name}{shape:?}"));
        digest.update(value.into_data().as_bytes());
    });
    for pair in pairs {
        for ids in [&pair.prompt_ids, &pair.chosen_ids, &pair.rejected_ids] {
            digest.update((ids.len() as u64).to_le_bytes());
            digest.update(bytemuck::cast_slice(ids));
        }
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

const CHOSEN: &str = "ref_chosen_logps";
const REJECTED: &str = "ref_rejected_logps";

/// What a file of the cache holds, unless it is damaged or of another length: then it is made again.
fn read_cache(file: &Path, num_pairs: usize) -> Option<Vec<ReferenceLogprobs>> {
    let bytes = std::fs::read(file).ok()?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes).ok()?;
    let values = |name| -> Option<Vec<f32>> {
        let tensor = tensors.tensor(name).ok()?;
        let right = tensor.dtype() == Dtype::F32 && tensor.shape() == [num_pairs];
        right.then(|| tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    };
    let (chosen, rejected) = (values(CHOSEN)?, values(REJECTED)?);
    Some(chosen.into_iter().zip(rejected).map(|(chosen, rejected)| ReferenceLogprobs { chosen, rejected }).collect())
}

/// Writes the file complete or not at all.
fn write_cache(file: &Path, all: &[ReferenceLogprobs]) -> Result<(), TrainError> {
    let bytes_of = |pick: fn(&ReferenceLogprobs) -> f32| -> Vec<u8> {
        all.iter().flat_map(|reference| pick(reference).to_le_bytes()).collect()
    };
    let (chosen, rejected) = (bytes_of(|reference| reference.chosen), bytes_of(|reference| reference.rejected));
    let view = |bytes| TensorView::new(Dtype::F32, vec![all.len()], bytes).expect("four bytes for each pair");
    let tensors = [(CHOSEN, view(&chosen)), (REJECTED, view(&rejected))];
    let bytes = safetensors::serialize(tensors, None).expect("two tensors of plain numbers");
    let fail = |source| TrainError::Write { path: file.into(), source };
    let unfinished = file.with_extension(format!("{}.unfinished", std::process::id()));
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir).map_err(fail)?;
    }
    std::fs::write(&unfinished, bytes).map_err(fail)?;
    std::fs::rename(&unfinished, file).map_err(fail)
}
