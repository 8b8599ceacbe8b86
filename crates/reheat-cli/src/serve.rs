//! A server that speaks OpenAI's HTTP interface over one engine.
//!
//! Requests wait in a queue of bounded length; one thread owns the model and draws tokens for as many of them at a time
//! as the engine holds. What a request gets is told to it through a channel; a client that goes away closes its end,
//! and its completions are cancelled.

mod answer; // JSON that goes out
mod completions; // the two routes that complete
mod error; // failures in OpenAI's shape
mod guard; // who may ask
mod prompt; // messages and texts to token ids
mod request; // JSON that comes in
mod stream; // server-sent events
mod worker; // the thread with the engine

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use reheat_chat::ChatTemplate;
use reheat_generate::EngineConfig;
use reheat_model::Qwen2;
use reheat_tokenizer::Tokenizer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use self::error::ApiError;
use self::guard::ApiKey;
use self::worker::Worker;
use crate::fault::Fault;
use crate::interrupt::Interrupt;

/// Between two looks at whether Ctrl-C was pressed.
const TICK: Duration = Duration::from_millis(100);
/// How long answers under way may take after Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);

/// What is served, and how much of it at a time.
#[derive(Debug)]
pub(crate) struct Options {
    /// The address to listen at.
    pub(crate) host: IpAddr,
    /// The port; 0 for any free one.
    pub(crate) port: u16,
    /// The model's name in requests.
    pub(crate) name: String,
    /// What a client has to send as a bearer token.
    pub(crate) api_key: Option<String>,
    pub(crate) engine: EngineConfig,
    /// Requests that may be under way or waiting; one more is refused.
    pub(crate) max_queue: usize,
    /// Tokens that are drawn where a request does not say how many.
    pub(crate) max_new_tokens: usize,
    /// Seed of the first request that has none of its own; each further one has the next.
    pub(crate) seed: u64,
}

/// What every request sees.
#[derive(Debug)]
struct Server {
    name: String,
    created: u64,
    tokenizer: Arc<Tokenizer>,
    /// `None` for a base model, which has no chat.
    template: Option<ChatTemplate>,
    worker: Worker,
    queue: Arc<Semaphore>,
    max_new_tokens: usize,
    /// Tokens that a prompt and its completion may have together.
    context: usize,
    next_seed: AtomicU64,
    next_id: AtomicU64,
    api_key: Option<ApiKey>,
    /// Whether only this machine can reach it.
    is_local: bool,
}

impl Server {
    /// A name for an answer; unique in this process.
    fn next_id(&self, kind: &str) -> String {
        format!("{kind}-{:016x}{:08x}", self.created, self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    fn next_seed(&self) -> u64 {
        self.next_seed.fetch_add(1, Ordering::Relaxed)
    }

    fn check_model(&self, model: &str) -> Result<(), ApiError> {
        if model == self.name { Ok(()) } else { Err(ApiError::unknown_model(model, &self.name)) }
    }
}

/// Serves until Ctrl-C. `on_ready` is told the address when connections are accepted.
///
/// # Errors
/// If the address can't be had.
pub(crate) fn serve(
    model: Qwen2,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    options: Options,
    interrupt: &Interrupt,
    on_ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    guard::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let tokenizer = Arc::new(tokenizer);
    let context = model.config().max_position_embeddings.min(options.engine.cache_tokens);
    let (worker, thread) = Worker::start(model, Arc::clone(&tokenizer), options.engine)?;
    let server = Arc::new(Server {
        name: options.name,
        created: now(),
        tokenizer,
        template,
        worker,
        queue: Arc::new(Semaphore::new(options.max_queue)),
        max_new_tokens: options.max_new_tokens,
        context,
        next_seed: AtomicU64::new(options.seed),
        next_id: AtomicU64::new(0),
        api_key: options.api_key.map(ApiKey::new),
        is_local: options.host.is_loopback(),
    });
    let served = runtime.block_on(async {
        let address = SocketAddr::new(options.host, options.port);
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| Fault::input(format!("cannot listen at {address}")).because(error))?;
        on_ready(listener.local_addr()?);
        let (stopping, signal) = (Arc::clone(&server), interrupt.clone());
        let serving = axum::serve(listener, router(Arc::clone(&server))).with_graceful_shutdown(async move {
            interrupted(&signal).await;
            // Nothing new begins; what is under way may end.
            stopping.queue.close();
        });
        let late = async {
            interrupted(interrupt).await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            served = serving => served.map_err(anyhow::Error::from),
            () = late => Ok(()),
        }
    });
    // Drops connections that are left, and with them their requests and the worker's end of the queue.
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(server);
    let ended = thread.join();
    served?;
    ended.map_err(|_| Fault::failed("the engine stopped").into())
}

async fn interrupted(interrupt: &Interrupt) {
    while !interrupt.is_raised() {
        tokio::time::sleep(TICK).await;
    }
}

fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/v1/chat/completions", post(completions::chat))
        .route("/v1/completions", post(completions::text))
        .layer(middleware::from_fn_with_state(Arc::clone(&server), guard::check))
        .route("/health", get(|| async { Json(json!({ "status": "ok" })) }))
        .fallback(|| async { ApiError::not_found() })
        .method_not_allowed_fallback(|| async { ApiError::wrong_method() })
        .with_state(server)
}

async fn models(State(server): State<Arc<Server>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [described(&server)] }))
}

async fn model(State(server): State<Arc<Server>>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    server.check_model(&name)?;
    Ok(Json(described(&server)))
}

fn described(server: &Server) -> Value {
    json!({ "id": server.name, "object": "model", "created": server.created, "owned_by": "reheat" })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// An answer of this kind or a failure.
type ApiResult = Result<Response, ApiError>;
