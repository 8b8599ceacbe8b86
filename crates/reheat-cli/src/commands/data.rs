//! `reheat data`: what is in a dataset, what it becomes, and how long it is.

mod inspect;
mod convert;
mod preview;
mod lengths;

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::Subcommand;
use reheat_chat::ChatTemplate;
use reheat_data::{ConversionOptions, Dataset, Format as RowFormat, OnBadRow};
use reheat_tokenizer::Tokenizer;

use super::source::{ModelArg, choose_eos};
use crate::{
    fault::Fault,
    settings::{DatasetSettings, Flags, HasTable, Table, resolve},
};

/// Look at datasets, convert them, and see what is trained on.
#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    Inspect(Box<inspect::InspectArgs>),
    Convert(Box<convert::ConvertArgs>),
    Preview(Box<preview::PreviewArgs>),
    Lengths(Box<lengths::LengthsArgs>),
}

pub(super) fn run(command: DataCommand) -> anyhow::Result<()> {
    match command {
        DataCommand::Inspect(args) => inspect::run(*args),
        DataCommand::Convert(args) => convert::run(*args),
        DataCommand::Preview(args) => preview::run(*args),
        DataCommand::Lengths(args) => lengths::run(*args),
    }
}

/// The settings of a command that reads a dataset.
#[derive(Debug)]
pub(crate) struct Rows;

impl HasTable for Rows {
    fn table() -> &'static Table {
        static TABLE: LazyLock<Table> = LazyLock::new(|| Table::default().with::<DatasetSettings>("Dataset"));
        &TABLE
    }
}

/// Which rows: named in place, or by --dataset.
#[derive(Debug, clap::Args)]
pub(crate) struct RowsArgs {
    /// Files, folders, patterns, or a name on the Hub; the same as --dataset.
    #[arg(value_name = "DATASET")]
    paths: Vec<String>,

    #[command(flatten)]
    flags: Flags<Rows>,
}

impl RowsArgs {
    /// Finds the files.
    fn open(self) -> anyhow::Result<Dataset> {
        let settings: DatasetSettings = resolve(&with_paths(self.flags, self.paths)?, None)?.extract()?;
        open(&settings)
    }
}

/// Adds what was named in place to --dataset.
fn with_paths<T>(mut flags: Flags<T>, paths: Vec<String>) -> Result<Flags<T>, Fault> {
    if !paths.is_empty() && flags.given.insert("dataset_name".into(), paths).is_some() {
        return Err(Fault::input("the dataset is named twice").hint("name it in place, or with --dataset"));
    }
    Ok(flags)
}

fn open(settings: &DatasetSettings) -> anyhow::Result<Dataset> {
    match settings.faults().as_slice() {
        [] => settings.open(),
        [fault] if fault == "--dataset is missing" => {
            Err(Fault::input("no dataset is named").hint("name files, a folder, or a name on the Hub").into())
        }
        faults => Err(Fault::input(faults.join("; ")).into()),
    }
}

/// What the columns mean.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FormatArgs {
    /// What the columns mean: messages, sharegpt, prompt_completion, alpaca …; told from the rows when absent.
    #[arg(long = "format", alias = "dataset-format", value_name = "NAME")]
    row_format: Option<String>,

    /// Column of plain text.
    #[arg(long, value_name = "COLUMN", default_value = "text")]
    dataset_text_field: String,
}

impl FormatArgs {
    fn options(&self, on_bad_row: OnBadRow) -> anyhow::Result<ConversionOptions> {
        let format = self.row_format.as_deref().map(str::parse::<RowFormat>).transpose()?;
        Ok(ConversionOptions { format, dataset_text_field: self.dataset_text_field.clone(), on_bad_row })
    }
}

/// A model's tokenizer and template, as training would use them.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TextArgs {
    #[command(flatten)]
    model: ModelArg,

    /// File with a chat template to use instead of the model's.
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,

    /// Token that ends a turn; told from the template when absent.
    #[arg(long, value_name = "TOKEN")]
    eos_token: Option<String>,
}

impl TextArgs {
    /// Whether any of it was asked for; else it is the bundled model's.
    fn is_given(&self) -> bool {
        self.model.model.is_some() || self.chat_template.is_some() || self.eos_token.is_some()
    }

    fn open(&self) -> anyhow::Result<(Tokenizer, Option<ChatTemplate>)> {
        if self.model.model.is_none() {
            eprintln!("note: tokens are those of the bundled model; name yours with --model");
        }
        let source = self.model.open()?;
        let mut tokenizer = source.tokenizer()?;
        let template = source.training_template(self.chat_template.as_deref(), &tokenizer)?;
        choose_eos(self.eos_token.as_deref(), template.as_ref(), &mut tokenizer)?;
        Ok((tokenizer, template))
    }
}
