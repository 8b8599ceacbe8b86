//! A translated template in MiniJinja, and one run of it within limits.

use std::{
    io,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use jiff::civil::DateTime;
use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Object, ObjectRepr},
};

use crate::{
    ChatError,
    jinja::{SyntaxError, translate},
    python,
};

/// Steps of the engine, each worth an instruction or 64 bytes of text. Templates of published models need less than
/// a tenth of it for a long conversation, and get more where the conversation itself is larger than that.
const FUEL: u64 = 4_000_000;

/// Fuel for each byte of input, where [`FUEL`] isn't enough.
const FUEL_PER_INPUT_BYTE: u64 = 16;

/// Bytes of text, and times the size of the input: a template repeats what it is given a few times at most.
const OUTPUT_BYTES: usize = 64 << 20;
const OUTPUT_PER_INPUT_BYTE: usize = 16;

/// Bytes of a template. The largest published ones have 20 thousand.
const TEMPLATE_BYTES: usize = 1 << 20;

/// Macros within macros and loops within loops.
const RECURSION: usize = 120;

/// Where the template lies in its environment. No path, and nothing that a template can name.
const NAME: &str = "chat template";

/// The name under which a run's output is known to the functions that need it.
const RUN: &str = "__run";

/// A compiled template.
#[derive(Debug)]
pub(crate) struct Engine {
    env: Environment<'static>,
    pub(crate) has_generation_blocks: bool,
}

/// What one run gave.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) text: String,
    /// Bytes of `text` that generation blocks wrote, and what they wrote.
    pub(crate) generation_spans: Vec<(Range<usize>, String)>,
}

impl Engine {
    pub(crate) fn new(source: &str) -> Result<Self, ChatError> {
        if source.len() > TEMPLATE_BYTES {
            return Err(ChatError::Limit { limit: format!("{TEMPLATE_BYTES} bytes for a template") });
        }
        let syntax = |error: SyntaxError| ChatError::Syntax { line: error.line, message: error.message };
        let translation = translate(source).map_err(syntax)?;
        let mut env = Environment::empty();
        // All whitespace control is settled in the translation.
        let syntax_config = SyntaxConfig::builder().keep_trailing_newline(true).build();
        env.set_syntax(syntax_config.expect("the delimiters are the usual ones"));
        env.set_debug(false);
        env.set_fuel(Some(FUEL));
        env.set_recursion_limit(RECURSION);
        env.set_formatter(|out, _, value| match value.as_str() {
            Some(text) => out.write_str(text).map_err(Error::from),
            None => out.write_str(&python::str_of(value)?).map_err(Error::from),
        });
        env.set_unknown_method_callback(|state, value, name, args| python::call_method(state, value, name, args));
        python::add_operators(&mut env);
        python::add_filters(&mut env);
        python::add_tests(&mut env);
        python::add_globals(&mut env);
        add_functions(&mut env);
        env.add_template_owned(NAME, translation.code).map_err(|error| ChatError::Syntax {
            line: error.line().unwrap_or(1),
            message: error.detail().unwrap_or("not a template").to_owned(),
        })?;
        Ok(Self { env, has_generation_blocks: translation.generation_blocks > 0 })
    }

    /// Runs the template. `input_bytes` is about how much text the variables hold.
    pub(crate) fn run(
        &self,
        variables: &[(String, Value)],
        now: DateTime,
        input_bytes: usize,
    ) -> Result<Output, ChatError> {
        let failed = |error: &Error| error.kind() == ErrorKind::OutOfFuel;
        match run_in(&self.env, variables, now, input_bytes) {
            Err(error) if failed(&error) => {
                let fuel = FUEL_PER_INPUT_BYTE.saturating_mul(input_bytes as u64);
                if fuel <= FUEL {
                    return Err(ChatError::Limit { limit: format!("{FUEL} steps") });
                }
                let mut env = self.env.clone();
                env.set_fuel(Some(fuel));
                run_in(&env, variables, now, input_bytes).map_err(|error| {
                    if failed(&error) { ChatError::Limit { limit: format!("{fuel} steps") } } else { fault(&error) }
                })
            }
            result => result.map_err(|error| fault(&error)),
        }
    }
}

fn run_in(
    env: &Environment<'_>,
    variables: &[(String, Value)],
    now: DateTime,
    input_bytes: usize,
) -> Result<Output, Error> {
    let run = Arc::new(Run { now, ..Run::default() });
    let variables = variables
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .chain([(RUN.to_owned(), Value::from_dyn_object(run.clone()))]);
    let limit = OUTPUT_BYTES.max(input_bytes.saturating_mul(OUTPUT_PER_INPUT_BYTE));
    let mut writer = Writer { bytes: Vec::new(), run: &run, limit };
    env.get_template(NAME)?.render_captured_to(Value::from_pairs(variables), &mut writer)?;
    let text =
        String::from_utf8(writer.bytes).map_err(|error| Error::new(ErrorKind::WriteFailure, error.to_string()))?;
    let generation_spans = std::mem::take(&mut *run.spans.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Output { text, generation_spans })
}

/// What the functions of one run share.
#[derive(Debug, Default)]
struct Run {
    now: DateTime,
    /// Bytes written so far, outside of any block that collects its output first.
    written: AtomicUsize,
    spans: Mutex<Vec<(Range<usize>, String)>>,
}

impl Object for Run {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

struct Writer<'a> {
    bytes: Vec<u8>,
    run: &'a Run,
    limit: usize,
}

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(io::Error::other(TooLong { limit: self.limit }));
        }
        self.bytes.extend_from_slice(bytes);
        self.run.written.store(self.bytes.len(), Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the text is longer than {limit} bytes")]
struct TooLong {
    limit: usize,
}

/// What `raise_exception` throws.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn add_functions(env: &mut Environment<'_>) {
    env.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        let message = python::str_of(message)?;
        Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(message)))
    });
    env.add_function("strftime_now", |state: &State<'_, '_>, format: &str| {
        let now = run_of(state)?.now;
        python::strftime(now, format).map_err(|error| Error::new(ErrorKind::InvalidOperation, error))
    });
    env.add_function("__generation", |state: &mut State<'_, '_>, arguments: Kwargs| {
        let body = arguments.get::<Value>("caller")?.call(state, &[])?;
        let run = run_of(state)?;
        let start = run.written.load(Ordering::Relaxed);
        let written = body.as_str().unwrap_or_default().to_owned();
        let span = start..start + written.len();
        run.spans.lock().unwrap_or_else(PoisonError::into_inner).push((span, written));
        Ok::<_, Error>(body)
    });
}

fn run_of(state: &State<'_, '_>) -> Result<Arc<Run>, Error> {
    state
        .lookup(RUN)
        .and_then(|run| run.downcast_object::<Run>())
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "the template overwrites a variable of the engine"))
}

/// The engine's error in our words.
fn fault(error: &Error) -> ChatError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return ChatError::Refused { message: message.clone() };
        }
        if let Some(cause) = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && let Some(TooLong { limit }) = cause.downcast_ref()
        {
            return ChatError::Limit { limit: format!("{limit} bytes of text") };
        }
        source = cause.source();
    }
    let message = match (error.kind(), error.detail()) {
        (ErrorKind::UndefinedError, None) => "reaching into something that is not defined".to_owned(),
        (ErrorKind::InvalidOperation, Some(detail)) if detail.contains("recursion") => {
            return ChatError::Limit { limit: format!("{RECURSION} levels of recursion") };
        }
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    };
    ChatError::Render { line: error.line().unwrap_or(1), message, share_gpt: false }
}
