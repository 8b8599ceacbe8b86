//! An answer in pieces, as server-sent events: one JSON object each, `[DONE]` at the end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::response::IntoResponse as _;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_core::Stream;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;

use super::answer::Answer;
use super::worker::{Told, What};
use super::{ApiError, ApiResult};

/// Begins to answer. A request that the engine refuses is answered with its error and not with a stream.
pub(super) async fn respond(mut answer: Answer, mut told: UnboundedReceiver<Told>, with_usage: bool) -> ApiResult {
    let first = match told.recv().await {
        None => return Err(ApiError::internal("the engine stopped")),
        Some(Told { what: What::Failed(error), .. }) => return Err(error),
        Some(first) => first,
    };
    let mut due: VecDeque<String> = answer.beginnings().iter().map(Value::to_string).collect();
    let news = answer.take(first)?;
    due.extend(answer.news(&news).map(|piece| piece.to_string()));
    let pieces = Pieces { answer, told, with_usage, due, ended: false };
    Ok(Sse::new(pieces).keep_alive(KeepAlive::default()).into_response())
}

/// The pieces of an answer. Dropped, when the client is gone, it closes the channel, and the worker cancels the rest.
struct Pieces {
    answer: Answer,
    told: UnboundedReceiver<Told>,
    with_usage: bool,
    due: VecDeque<String>,
    ended: bool,
}

impl Pieces {
    fn end(&mut self) {
        self.ended = true;
        if self.with_usage {
            self.due.push_back(self.answer.counts().to_string());
        }
        self.due.push_back("[DONE]".to_owned());
    }

    fn fail(&mut self, error: &ApiError) {
        self.ended = true;
        self.due.push_back(error.body().to_string());
    }
}

impl Stream for Pieces {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(data) = this.due.pop_front() {
                return Poll::Ready(Some(Ok(Event::default().data(data))));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            if this.answer.is_complete() {
                this.end();
                continue;
            }
            match ready!(this.told.poll_recv(context)) {
                None => this.fail(&ApiError::internal("the engine stopped")),
                Some(told) => match this.answer.take(told) {
                    Err(error) => this.fail(&error),
                    Ok(news) => this.due.extend(this.answer.news(&news).map(|piece| piece.to_string())),
                },
            }
        }
    }
}
