//! The two routes that complete: read, encode, hand over, answer.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::response::IntoResponse as _;
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};

use super::answer::{Answer, Form, Tools};
use super::request::{ChatRequest, Defaults, Sampling, TextRequest, parse};
use super::worker::Job;
use super::{ApiError, ApiResult, Server, prompt, stream};

/// Longest body. A prompt of 100,000 tokens has about half of it.
const MAX_BODY_BYTES: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// `POST /v1/chat/completions`
pub(super) async fn chat(State(server): State<Arc<Server>>, body: Body) -> ApiResult {
    let permit = place(&server)?;
    let body = read(body).await?;
    let worker = Arc::clone(&server);
    // Rendering and encoding take a while for long texts, and other requests wait for this thread.
    let (prompts, request) = blocking(move || {
        let request: ChatRequest = parse(&body)?;
        check_model(&worker, &request.sampling)?;
        request.check()?;
        Ok((vec![prompt::of_chat(&worker, &request)?], request))
    })
    .await?;
    let top_logprobs = request.top_logprobs()?;
    let tools = prompt::tools(&server, &request);
    complete(server, permit, prompts, &request.sampling, top_logprobs, (Form::Chat, tools)).await
}

/// `POST /v1/completions`
pub(super) async fn text(State(server): State<Arc<Server>>, body: Body) -> ApiResult {
    let permit = place(&server)?;
    let body = read(body).await?;
    let worker = Arc::clone(&server);
    let (prompts, request) = blocking(move || {
        let request: TextRequest = parse(&body)?;
        check_model(&worker, &request.sampling)?;
        request.check()?;
        Ok((prompt::of_text(&worker, &request.prompt)?, request))
    })
    .await?;
    let top_logprobs = request.top_logprobs()?;
    complete(server, permit, prompts, &request.sampling, top_logprobs, (Form::Text, Tools::None)).await
}

/// A place in the queue. It is taken before the body is read, so that what waits is bounded in bytes too.
fn place(server: &Server) -> Result<OwnedSemaphorePermit, ApiError> {
    Arc::clone(&server.queue).try_acquire_owned().map_err(|error| match error {
        TryAcquireError::NoPermits => ApiError::queue_full(),
        TryAcquireError::Closed => ApiError::stopping(),
    })
}

async fn read(body: Body) -> Result<Vec<u8>, ApiError> {
    match tokio::time::timeout(BODY_TIME, to_bytes(body, MAX_BODY_BYTES)).await {
        Err(_) => Err(ApiError::too_slow()),
        Ok(Err(_)) => Err(ApiError::too_large(MAX_BODY_BYTES)),
        Ok(Ok(bytes)) => Ok(bytes.into()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::internal("the request could not be prepared"))?
}

fn check_model(server: &Server, sampling: &Sampling) -> Result<(), ApiError> {
    match &sampling.model {
        Some(model) => server.check_model(model),
        None => Err(ApiError::field("model", format!("`model` is missing; `{}` is served here", server.name))),
    }
}

async fn complete(
    server: Arc<Server>,
    permit: OwnedSemaphorePermit,
    prompts: Vec<Vec<u32>>,
    sampling: &Sampling,
    top_logprobs: Option<usize>,
    (form, tools): (Form, Tools),
) -> ApiResult {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let defaults = Defaults {
        // Without a wish, no more than fits.
        max_new_tokens: server.max_new_tokens.min(server.context.saturating_sub(longest)).max(1),
        seed: server.next_seed(),
        eos_token_ids: server.tokenizer.eos_ids(),
    };
    let config = sampling.config(defaults, top_logprobs)?;
    let choices = prompts.len() * config.num_return_sequences;
    let prompt_tokens = prompts.iter().map(Vec::len).sum();
    let eos_token_ids = config.eos_token_ids.clone();
    let told = server.worker.submit(Job { prompts, config, stop: sampling.stops()? }, permit)?;
    let answer = Answer::new(server, form, prompt_tokens, choices, top_logprobs, eos_token_ids, tools);
    match sampling.streaming() {
        Some(with_usage) => stream::respond(answer, told, with_usage).await,
        None => Ok(Json(answer.gather(told).await?).into_response()),
    }
}
