//! Messages and texts to token ids.

use reheat_chat::{Conversation, Message, RenderOptions, ToolCalls};
use serde_json::{Map, Value};

use super::answer::Tools;
use super::request::{ChatRequest, Prompt};
use super::{ApiError, Server};

/// Most prompts of one request.
const MAX_PROMPTS: usize = 64;

/// The ids of a conversation, with what makes the model begin an answer.
pub(super) fn of_chat(server: &Server, request: &ChatRequest) -> Result<Vec<u32>, ApiError> {
    let Some(template) = &server.template else {
        let message = format!("`{}` has no chat template; use /v1/completions", server.name);
        return Err(ApiError::field("messages", message));
    };
    let messages = request.messages.iter().enumerate().map(|(index, message)| joined(index, message));
    let conversation = Conversation {
        messages: messages.collect::<Result<_, _>>()?,
        tools: request.offered_tools().cloned(),
        template_kwargs: request.chat_template_kwargs.clone().unwrap_or_default(),
        ..Conversation::default()
    };
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let prompt = template.render(&conversation, &options)?;
    Ok(server.tokenizer.encode_literal(&prompt.text, &prompt.literal_spans)?.ids)
}

/// Whether calls of tools are to be told from text: where tools are offered, and the template teaches how to call them.
pub(super) fn tools(server: &Server, request: &ChatRequest) -> Tools {
    let taught = server.template.as_ref().is_some_and(|template| ToolCalls::are_taught_by(template.source()));
    if taught && request.offered_tools().is_some() { Tools::Offered } else { Tools::None }
}

/// A message as templates know it: its content is text and not parts, and the arguments of its calls are objects and not
/// JSON in strings.
fn joined(index: usize, message: &Map<String, Value>) -> Result<Message, ApiError> {
    let mut message = message.clone();
    if let Some(Value::Array(parts)) = message.get("content") {
        let text = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text"), Some(text)) => Ok(text.to_owned()),
            _ => Err(ApiError::field(&format!("messages[{index}].content"), "only parts of type `text` are supported")),
        };
        let whole = parts.iter().map(text).collect::<Result<Vec<_>, _>>()?.concat();
        message.insert("content".into(), whole.into());
    }
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
        for call in calls {
            let Some(arguments) = call.pointer_mut("/function/arguments") else { continue };
            if let Value::String(text) = arguments {
                // A call without arguments may have an empty text of them.
                let text = if text.trim().is_empty() { "{}" } else { text };
                let read: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
                    let field = format!("messages[{index}].tool_calls");
                    ApiError::field(&field, format!("the arguments of a call are no JSON object: {error}"))
                })?;
                *arguments = read.into();
            }
        }
    }
    Ok(message.into())
}

/// The ids of each prompt.
pub(super) fn of_text(server: &Server, prompt: &Prompt) -> Result<Vec<Vec<u32>>, ApiError> {
    let encode = |text: &String| Ok(server.tokenizer.encode_with_special_tokens(text)?.ids);
    let prompts: Vec<Vec<u32>> = match prompt {
        Prompt::Text(text) => vec![encode(text)?],
        Prompt::Texts(texts) if texts.len() <= MAX_PROMPTS => {
            texts.iter().map(encode).collect::<Result<_, ApiError>>()?
        }
        Prompt::Ids(ids) => vec![ids.clone()],
        Prompt::ManyIds(many) if many.len() <= MAX_PROMPTS => many.clone(),
        Prompt::Texts(_) | Prompt::ManyIds(_) => {
            return Err(ApiError::field("prompt", format!("more than {MAX_PROMPTS} prompts")));
        }
    };
    if prompts.is_empty() { Err(ApiError::field("prompt", "there is no prompt")) } else { Ok(prompts) }
}
