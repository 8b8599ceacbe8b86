//! `reheat template`: what a chat template makes of a conversation, and what of it is trained.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    ops::Range,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use reheat_chat::{Case, Cases, ChatError, ChatTemplate, ControlTokens, Preparation, TemplateTokens, wide_integer};
use reheat_tokenizer::Tokenizer;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::source::ModelArg;
use crate::{
    fault::Fault,
    output::{self, Format},
    painted::painted,
};

/// Render chat templates, and see what is trained.
#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    Render(RenderArgs),
    Mask(MaskArgs),
}

/// Show the text that a chat template makes of a conversation, as transformers renders it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat template render --model ./Qwen2.5-0.5B-Instruct --messages chat.json --add-generation-prompt
  reheat template render --template chatml.jinja --messages chat.json --kwargs '{\"eos_token\": \"</s>\"}' --json
  echo '[{\"role\": \"user\", \"content\": \"Hi\"}]' | reheat template render --messages -

With --json: {\"text\", \"generation_spans\"}, or with more than one conversation such a line for each; spans are [start, end) in characters (code points). A conversation that the template refuses gives {\"error\": {\"kind\", \"message\", \"hint\"}} then, and the exit code is 2 when all are done.")]
pub(crate) struct RenderArgs {
    #[command(flatten)]
    given: Given,

    /// End with what makes the model begin an answer.
    #[arg(long, conflicts_with = "continue_final_message")]
    add_generation_prompt: bool,

    /// Leave the last message open, so that the model goes on with it.
    #[arg(long)]
    continue_final_message: bool,
}

/// Show which text of a conversation is trained with --assistant-only-loss.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat template mask --model ./Qwen2.5-0.5B-Instruct --messages chat.json
  reheat template mask --template mine.jinja --model ./Qwen2.5-0.5B --messages chat.json --json

What is trained is on green, or between ⟦ and ⟧ where there is no colour: what a template marks with {% generation %}, else what the assistant wrote with the token that ends its turn. That is proved for each conversation, and an error where it can't be.

With --json: {\"text\", \"assistant_spans\", \"literal_spans\", \"ids\", \"assistant_masks\"}, or such a line for each conversation; spans are [start, end) in characters (code points). Ids and masks need --model for its tokenizer; without --template and --model, they are the bundled model's. `literal_spans` are control tokens that a message spells, which stay text.")]
pub(crate) struct MaskArgs {
    #[command(flatten)]
    given: Given,

    /// What a message says that spells a control token: the characters, or the token, as in transformers.
    #[arg(long, value_name = "NAME", default_value = "literal")]
    control_tokens: ControlTokensArg,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ControlTokensArg {
    Literal,
    Recognized,
}

/// A template and conversations.
#[derive(Debug, clap::Args)]
struct Given {
    /// File with a chat template; or a folder of them, and each case names its own as `template`.
    #[arg(short, long, value_name = "FILE")]
    template: Option<PathBuf>,

    #[command(flatten)]
    model: ModelArg,

    /// Which of a model's templates to take, such as tool_use; by default the one that fits the conversation.
    #[arg(long, value_name = "NAME")]
    template_name: Option<String>,

    /// File with a list of messages, an object with `messages` and perhaps `tools`, or JSON lines of such; `-` for stdin.
    #[arg(long, value_name = "FILE")]
    messages: PathBuf,

    /// File with a list of tools as JSON schemas, for all conversations.
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,

    /// Further variables for the template, as a JSON object.
    #[arg(long, value_name = "JSON")]
    kwargs: Option<String>,

    /// Give messages to the template with their nulls, as transformers' renderer does and apply_chat_template does not.
    #[arg(long)]
    as_given: bool,

    #[command(flatten)]
    format: Format,
}

pub(super) fn run(command: TemplateCommand) -> anyhow::Result<()> {
    match command {
        TemplateCommand::Render(args) => render(&args),
        TemplateCommand::Mask(args) => mask(&args),
    }
}

fn render(args: &RenderArgs) -> anyhow::Result<()> {
    args.given.for_each(|template, _, mut case| {
        let options = &mut case.options;
        options.add_generation_prompt |= args.add_generation_prompt;
        options.continue_final_message |= args.continue_final_message;
        options.control_tokens = ControlTokens::Recognized; // what a tokenizer makes of the text isn't asked
        let rendered = template.render(&case.conversation, options)?;
        let generation_spans = pairs(rendered.in_characters(&rendered.generation_spans));
        let json = json!({ "text": rendered.text, "generation_spans": generation_spans });
        Ok(Shown { plain: rendered.text, json, note: None })
    })
}

fn mask(args: &MaskArgs) -> anyhow::Result<()> {
    args.given.for_each(|template, tokenizer, mut case| {
        case.options.control_tokens = match args.control_tokens {
            ControlTokensArg::Literal => ControlTokens::Literal,
            ControlTokensArg::Recognized => ControlTokens::Recognized,
        };
        let transcript = template.render_for_training(&case.conversation, &case.options)?;
        let trained: Vec<Range<usize>> = transcript.assistant_spans.iter().map(|span| span.bytes.clone()).collect();
        let characters = transcript.in_characters(&trained);
        let mut json = json!({
            "text": transcript.text,
            "assistant_spans": pairs(characters.clone()),
            "literal_spans": pairs(transcript.in_characters(&transcript.literal_spans)),
        });
        let mut note = format!(
            "{} of {} characters are trained",
            characters.iter().map(Range::len).sum::<usize>(),
            transcript.text.chars().count()
        );
        if let Some(tokenizer) = tokenizer {
            let encoding = tokenizer.encode_literal(&transcript.text, &transcript.literal_spans)?;
            let mut masks = vec![0u8; encoding.len()];
            trained.iter().for_each(|span| masks[encoding.token_span(span)].fill(1));
            let count = masks.iter().filter(|mask| **mask == 1).count();
            note.push_str(&format!(", {count} of {} tokens", masks.len()));
            json["ids"] = encoding.ids.into();
            json["assistant_masks"] = masks.into();
        }
        Ok(Shown { plain: painted(&transcript.text, &trained), json, note: Some(note) })
    })
}

/// Spans as JSON has them.
fn pairs(spans: Vec<Range<usize>>) -> Vec<[usize; 2]> {
    spans.into_iter().map(|span| [span.start, span.end]).collect()
}

/// What is printed of one conversation.
struct Shown {
    plain: String,
    json: Value,
    /// For stderr.
    note: Option<String>,
}

/// `{"error": …}`
#[derive(Serialize)]
struct Failure {
    kind: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

impl Failure {
    fn of(error: &anyhow::Error) -> Self {
        let chat = error.downcast_ref::<ChatError>();
        let message = match chat {
            Some(ChatError::Refused { message }) => message.clone(), // the template's own words
            _ => error.to_string(),
        };
        Self { kind: chat.map_or("tokenizer", ChatError::kind), message, hint: chat.and_then(ChatError::hint) }
    }
}

impl Given {
    /// Reads the conversations and prints what `show` makes of each. Of several, one that fails doesn't stop the rest.
    fn for_each(
        &self,
        show: impl Fn(&ChatTemplate, Option<&Tokenizer>, Case) -> anyhow::Result<Shown>,
    ) -> anyhow::Result<()> {
        let mut templates = self.templates()?;
        let Cases { cases, is_single } = Cases::read(&read(&self.messages)?)?;
        let tools = self.tools.as_deref().map(read_tools).transpose()?;
        let kwargs = self.kwargs.as_deref().map(read_kwargs).transpose()?.unwrap_or_default();
        let count = cases.len();
        let mut failed = 0;
        let mut out = output::stdout();
        for (index, mut case) in cases.into_iter().enumerate() {
            self.complete(&mut case, tools.as_ref(), &kwargs);
            let shown = match templates.of(&case) {
                Ok((template, tokenizer)) => show(template, tokenizer, case),
                // A template that is none is the fault of its cases; one that is not named is the user's.
                Err(error) if error.is::<ChatError>() => Err(error),
                Err(error) => return Err(error),
            };
            match shown {
                Ok(shown) if self.format.json => writeln!(out, "{}", shown.json)?,
                Ok(shown) => {
                    if !is_single {
                        writeln!(out, "── {} of {count} ──", index + 1)?;
                    }
                    out.write_all(shown.plain.as_bytes())?;
                    if !is_single && !shown.plain.ends_with('\n') {
                        writeln!(out)?;
                    }
                    out.flush()?;
                    if let Some(note) = shown.note {
                        let line_break = if shown.plain.ends_with('\n') { "" } else { "\n" };
                        eprintln!("{line_break}{note}");
                    }
                }
                Err(error) if is_single => return Err(error),
                Err(error) => {
                    failed += 1;
                    let failure = Failure::of(&error);
                    if self.format.json {
                        writeln!(out, "{}", json!({ "error": failure }))?;
                    } else {
                        out.flush()?;
                        eprintln!("conversation {} of {count}: {error}", index + 1);
                        failure.hint.iter().for_each(|hint| eprintln!("hint: {hint}"));
                    }
                }
            }
        }
        out.flush()?;
        if failed > 0 {
            return Err(Fault::input(format!("{failed} of {count} conversations cannot be rendered")).into());
        }
        Ok(())
    }

    /// What the flags say goes for every conversation.
    fn complete(&self, case: &mut Case, tools: Option<&Vec<Value>>, kwargs: &Map<String, Value>) {
        if let Some(tools) = tools {
            case.conversation.tools = Some(tools.clone());
        }
        if self.as_given {
            case.options.preparation = Preparation::AsGiven;
        }
        for (name, value) in kwargs {
            match (name.as_str(), value) {
                ("add_generation_prompt", Value::Bool(value)) => case.options.add_generation_prompt |= value,
                ("continue_final_message", Value::Bool(value)) => case.options.continue_final_message |= value,
                _ => drop(case.options.kwargs.insert(name.clone(), value.clone())),
            }
        }
    }

    fn templates(&self) -> anyhow::Result<Templates> {
        let folder = self.template.clone().filter(|path| path.is_dir());
        let file = self.template.as_deref().filter(|_| folder.is_none());
        if self.template.is_some() && self.model.model.is_none() {
            let only = file.map(|file| ChatTemplate::from_file(file, &TemplateTokens::default())).transpose()?;
            return Ok(Templates { folder, only: self.named(only)?, tokenizer: None, by_name: BTreeMap::new() });
        }
        let source = self.model.open()?;
        let tokenizer = source.tokenizer()?;
        let only = source.training_template(file, &tokenizer)?;
        if only.is_none() && folder.is_none() {
            return Err(Fault::input(format!("`{}` has no chat template", source.given()))
                .hint("give one with --template FILE")
                .into());
        }
        Ok(Templates { folder, only: self.named(only)?, tokenizer: Some(tokenizer), by_name: BTreeMap::new() })
    }

    fn named(&self, template: Option<ChatTemplate>) -> Result<Option<ChatTemplate>, ChatError> {
        match (&self.template_name, template) {
            (Some(name), Some(template)) => template.named(name).map(Some),
            (_, template) => Ok(template),
        }
    }
}

/// One template for all, or a folder of them.
struct Templates {
    folder: Option<PathBuf>,
    only: Option<ChatTemplate>,
    tokenizer: Option<Tokenizer>,
    by_name: BTreeMap<String, ChatTemplate>,
}

impl Templates {
    fn of(&mut self, case: &Case) -> anyhow::Result<(&ChatTemplate, Option<&Tokenizer>)> {
        let template = match &self.folder {
            None => self.only.as_ref().expect("without a folder there is a template"),
            Some(folder) => {
                let Some(name) = &case.template else {
                    return Err(Fault::input(format!("`{}` is a folder", folder.display()))
                        .hint("give one file, or name each case's file in its field `template`")
                        .into());
                };
                if !self.by_name.contains_key(name) {
                    let tokens = self.tokenizer.as_ref().map(super::source::template_tokens).unwrap_or_default();
                    let template = ChatTemplate::from_file(file_in(folder, name)?, &tokens)?;
                    self.by_name.insert(name.clone(), template);
                }
                &self.by_name[name]
            }
        };
        Ok((template, self.tokenizer.as_ref()))
    }
}

/// The file `NAME` or `NAME.jinja` of a folder, and never one outside of it.
fn file_in(folder: &Path, name: &str) -> Result<PathBuf, Fault> {
    if name.contains(['/', '\\']) || name.starts_with('.') {
        return Err(Fault::input(format!("template `{name}` is not the name of a file in `{}`", folder.display())));
    }
    let path = folder.join(name);
    Ok(if path.is_file() { path } else { folder.join(format!("{name}.jinja")) })
}

fn read(path: &Path) -> Result<String, Fault> {
    if path == Path::new("-") {
        let mut text = String::new();
        return io::stdin()
            .read_to_string(&mut text)
            .map(|_| text)
            .map_err(|error| Fault::input("cannot read stdin as text").because(error));
    }
    fs::read_to_string(path).map_err(|error| Fault::input(format!("cannot read `{}`", path.display())).because(error))
}

fn read_tools(path: &Path) -> Result<Vec<Value>, Fault> {
    let text = read(path)?;
    check_integers(&text)?;
    serde_json::from_str(&text).map_err(|error| {
        Fault::input(format!("`{}` is not a JSON list of tools", path.display())).because(error).hint(
            "a tool is an object such as {\"type\": \"function\", \"function\": {\"name\": …, \"parameters\": …}}",
        )
    })
}

/// A number that a template would print differently from Python is refused.
fn check_integers(text: &str) -> Result<(), Fault> {
    match wide_integer(text) {
        Some(integer) => {
            Err(Fault::input(format!("the integer {integer} is beyond 64 bits")).hint("write it as a string"))
        }
        None => Ok(()),
    }
}

fn read_kwargs(text: &str) -> Result<Map<String, Value>, Fault> {
    check_integers(text)?;
    serde_json::from_str(text).map_err(|error| {
        Fault::input("--kwargs is not a JSON object")
            .because(error)
            .hint("such as --kwargs '{\"enable_thinking\": false}'")
    })
}
