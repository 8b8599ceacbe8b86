//! Tools that any program has, over lines of JSON.
//!
//! ```text
//! → {"method": "list"}
//! ← [{"type": "function", "function": {"name": "add", "description": "…", "parameters": {…}}}]
//! → {"method": "call", "name": "add", "arguments": {"a": 1, "b": 2}}
//! ← {"result": 3}
//! ```
//!
//! `{"error": "…"}` in place of a result is told to the model. What the program writes to its standard error is shown.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Tool, ToolError, declared};
use crate::program::{Failure, Program, ProgramFault, Talk, start_of};

/// What a program is asked for at first.
const SCHEMAS: &str = "a JSON list of schemas of tools on one line";
/// And then.
const RESULT: &str = r#"{"result": …} or {"error": "…"} on one line"#;

/// The tools of a program that runs in the system's shell. `talk` gets its standard error, and its faults.
///
/// A call that the program does not answer within `timeout`, or with something else, fails, which the model is told;
/// the next call starts the program again.
///
/// # Errors
/// If the program does not say which tools it has.
pub fn program_tools(command: &str, timeout: Duration, talk: Talk) -> Result<Vec<Box<dyn Tool>>, ToolError> {
    let mut program = Program::new("tool program", command, timeout, Arc::clone(&talk));
    let fault = |Failure { fault, last_words }| ToolError::Program { command: command.into(), fault, last_words };
    let line = program.ask_patiently(&json!({ "method": "list" }).to_string()).map_err(fault)?;
    let Ok(schemas) = serde_json::from_str::<Vec<Value>>(&line) else {
        let garbage = ProgramFault::Garbage { line: start_of(&line), expected: SCHEMAS };
        return Err(fault(Failure { fault: garbage, last_words: Vec::new() }));
    };
    let program = Arc::new(Mutex::new(program));
    let tool = |schema: Value| -> Result<Box<dyn Tool>, ToolError> {
        let name = declared::name(&schema)?.to_owned();
        Ok(Box::new(ProgramTool { name, schema, program: Arc::clone(&program), talk: Arc::clone(&talk) }))
    };
    schemas.into_iter().map(tool).collect()
}

/// One tool of a program.
struct ProgramTool {
    name: String,
    schema: Value,
    /// It may have others.
    program: Arc<Mutex<Program>>,
    talk: Talk,
}

impl ProgramTool {
    fn ask(&self, arguments: &Map<String, Value>) -> Result<Result<Value, String>, ProgramFault> {
        let mut program = self.program.lock().unwrap_or_else(PoisonError::into_inner);
        let question = json!({ "method": "call", "name": self.name, "arguments": arguments });
        let line = program.ask(&question.to_string()).map_err(|failure| failure.fault)?;
        answer(&line).ok_or_else(|| {
            // What else it has to say would be taken for the answer to another call.
            program.end();
            ProgramFault::Garbage { line: start_of(&line), expected: RESULT }
        })
    }
}

/// A result, or what the program says is wrong; `None` for garbage.
fn answer(line: &str) -> Option<Result<Value, String>> {
    let Ok(Value::Object(mut answer)) = serde_json::from_str(line) else { return None };
    match (answer.remove("error"), answer.remove("result")) {
        (None | Some(Value::Null), Some(result)) => Some(Ok(result)),
        (Some(Value::String(error)), _) => Some(Err(error)),
        (Some(error), _) if !error.is_null() => Some(Err(error.to_string())),
        _ => None,
    }
}

impl Tool for ProgramTool {
    fn name(&self) -> &str {
        &self.name
    }

    fn schema(&self) -> &Value {
        &self.schema
    }

    fn call(&mut self, arguments: &Map<String, Value>) -> Result<Value, String> {
        self.ask(arguments).unwrap_or_else(|fault| {
            (self.talk)(&format!("tool `{}`: the program {fault}", self.name));
            Err(format!("the tool {fault}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_result_or_an_error() {
        assert_eq!(answer(r#"{"result": 3}"#), Some(Ok(json!(3))));
        assert_eq!(answer(r#"{"result": null}"#), Some(Ok(Value::Null)));
        assert_eq!(answer(r#"{"result": 3, "error": null}"#), Some(Ok(json!(3))));
        assert_eq!(answer(r#"{"error": "no"}"#), Some(Err("no".into())));
        for line in ["", "3", "[3]", "{}", r#"{"error": null}"#] {
            assert_eq!(answer(line), None, "{line}");
        }
    }
}
