//! One completion under way.

use std::ops::Range;
use std::sync::Arc;

use super::{Event, EventKind, Request, RequestId};
use crate::cache::Segment;
use crate::{FinishReason, Sampler};

#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) request: RequestId,
    pub(super) sample: usize,
    /// Its rows in the cache.
    pub(super) rows: Range<usize>,
    /// Tokens whose keys and values are in the cache.
    pub(super) num_cached: usize,
    prompt: Arc<[i32]>,
    sampler: Sampler,
    eos_token_ids: Vec<u32>,
    budget: usize,
    /// The newest token, as the model takes it.
    newest: [i32; 1],
    num_drawn: usize,
    /// The prompt's logits, where another completion has computed them.
    first_logits: Option<Arc<[f32]>>,
}

impl Sequence {
    /// A completion that begins: with `first_logits`, its rows hold the prompt already.
    pub(super) fn new(request: &Request, sample: usize, rows: Range<usize>, first_logits: Option<Arc<[f32]>>) -> Self {
        let prompt_ids: Vec<u32> = request.prompt.iter().map(|id| *id as u32).collect();
        Self {
            request: request.id,
            sample,
            rows,
            num_cached: if first_logits.is_some() { request.prompt.len() } else { 0 },
            prompt: Arc::clone(&request.prompt),
            sampler: Sampler::new(Arc::clone(&request.config), &prompt_ids, request.stream + sample as u64),
            eos_token_ids: request.config.eos_token_ids.clone(),
            budget: request.budget,
            newest: [0],
            num_drawn: 0,
            first_logits,
        }
    }

    pub(super) fn take_first_logits(&mut self) -> Option<Arc<[f32]>> {
        self.first_logits.take()
    }

    pub(super) fn is_prefilling(&self) -> bool {
        self.num_cached < self.prompt.len()
    }

    /// Prompt tokens that no pass has seen.
    pub(super) fn num_to_prefill(&self) -> usize {
        self.prompt.len() - self.num_cached
    }

    /// The next `len` tokens of the prompt.
    pub(super) fn prompt_chunk(&self, len: usize) -> Segment<'_> {
        let end = self.num_cached + len;
        Segment {
            ids: &self.prompt[self.num_cached..end],
            position: self.num_cached,
            first_row: self.rows.start,
            wants_logits: end == self.prompt.len(),
        }
    }

    /// The token drawn last.
    pub(super) fn newest(&self) -> Segment<'_> {
        Segment { ids: &self.newest, position: self.num_cached, first_row: self.rows.start, wants_logits: true }
    }

    /// Draws a token, tells of it, and says whether the completion has ended.
    pub(super) fn draw(&mut self, logits: &[f32], events: &mut Vec<Event>) -> bool {
        let (request, sample) = (self.request, self.sample);
        let mut tell = |kind| events.push(Event { request, sample, kind });
        let token = match self.sampler.next(logits) {
            Ok(token) => token,
            Err(error) => {
                tell(EventKind::Failed(error));
                return true;
            }
        };
        let id = token.id;
        self.newest = [id as i32];
        self.num_drawn += 1;
        tell(EventKind::Token(token));
        let reason = if self.eos_token_ids.contains(&id) {
            FinishReason::Stop
        } else if self.num_drawn == self.budget {
            FinishReason::Length
        } else {
            return false;
        };
        tell(EventKind::Finished(reason));
        true
    }
}
