//! Failures in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use reheat_chat::ChatError;
use reheat_generate::GenerateError;
use reheat_tokenizer::TokenizerError;
use serde_json::{Value, json};

/// A request that is not answered with a completion.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), param: None, code: None }
    }

    /// The client's mistake.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// The client's mistake in one field.
    pub(super) fn field(param: &str, message: impl Into<String>) -> Self {
        Self { param: Some(param.to_owned()), ..Self::invalid(message) }
    }

    pub(super) fn unknown_model(model: &str, name: &str) -> Self {
        let message = format!("the model `{model}` does not exist; `{name}` is served here");
        let error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message);
        Self { param: Some("model".into()), code: Some("model_not_found"), ..error }
    }

    pub(super) fn not_found() -> Self {
        let message = "no such address; there are /v1/models, /v1/chat/completions and /v1/completions";
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
    }

    pub(super) fn wrong_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "this address takes another method")
    }

    pub(super) fn unauthorized() -> Self {
        let message = "the API key is missing or wrong; send it as `Authorization: Bearer KEY`";
        let error = Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message);
        Self { code: Some("invalid_api_key"), ..error }
    }

    pub(super) fn foreign_host() -> Self {
        let message = "the Host header names another machine; without an API key only this machine is served";
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    pub(super) fn not_json() -> Self {
        let message = "the body has to be JSON, with `Content-Type: application/json`";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message)
    }

    pub(super) fn too_large(bytes: usize) -> Self {
        let message = format!("the body is longer than {bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    pub(super) fn too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "the body did not arrive in time")
    }

    pub(super) fn queue_full() -> Self {
        let message = "too many requests are waiting; try again later";
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
        Self { code: Some("rate_limit_exceeded"), ..error }
    }

    pub(super) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "the server is stopping")
    }

    /// Ours.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    pub(super) fn body(&self) -> Value {
        json!({ "error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<GenerateError> for ApiError {
    fn from(error: GenerateError) -> Self {
        match error {
            GenerateError::NotFinite { .. } => Self::internal(error.to_string()),
            GenerateError::PromptTooLong { .. } | GenerateError::CacheTooSmall { .. } => {
                Self { code: Some("context_length_exceeded"), ..Self::invalid(error.to_string()) }
            }
            GenerateError::Sampling { name, .. } => Self::field(name, error.to_string()),
            GenerateError::BiasOutsideVocabulary { .. } => Self::field("logit_bias", error.to_string()),
            _ => Self::invalid(error.to_string()),
        }
    }
}

impl From<ChatError> for ApiError {
    fn from(error: ChatError) -> Self {
        Self::field("messages", error.to_string())
    }
}

impl From<TokenizerError> for ApiError {
    fn from(error: TokenizerError) -> Self {
        Self::invalid(error.to_string())
    }
}
