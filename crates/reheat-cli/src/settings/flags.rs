//! One flag for each field of a [`Table`].

use std::{collections::BTreeMap, marker::PhantomData};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, builder::PossibleValuesParser, parser::ValueSource,
};

use super::table::{Field, Kind, Table};

/// A command's settings.
pub(crate) trait HasTable {
    /// Every setting that the command accepts.
    fn table() -> &'static Table;
}

/// What was given on the command line, by key; only what was really given.
#[derive(Debug)]
pub(crate) struct Flags<T> {
    pub(crate) given: BTreeMap<String, Vec<String>>,
    /// Old names that were used.
    pub(crate) notes: Vec<String>,
    table: PhantomData<T>,
}

// Not derived, which would ask the same of `T`.
impl<T> Clone for Flags<T> {
    fn clone(&self) -> Self {
        Self { given: self.given.clone(), notes: self.notes.clone(), table: PhantomData }
    }
}

impl<T: HasTable> Args for Flags<T> {
    fn augment_args(command: Command) -> Command {
        T::table().fields.iter().fold(command, |command, field| {
            let command = command.arg(flag(field)).args(old_flags(T::table(), field));
            match field.kind {
                Kind::Bool => command.arg(negation(field)),
                _ => command,
            }
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag(field: &'static Field) -> Arg {
    let (short, long) = help(field);
    let arg = Arg::new(field.key.as_str())
        .long(field.flag.as_str())
        .help(short)
        .long_help(long)
        .help_heading(field.section)
        .value_name(value_name(field));
    with_values(arg.aliases(field.aliases.iter().map(String::as_str)), field)
}

/// Flags for the names that other versions and tools have for the setting.
fn old_flags(table: &'static Table, field: &'static Field) -> Vec<Arg> {
    let flag = |(old, flag): &'static (&'static str, String)| {
        let others = table.old_names(field).map(|(other, _)| *other).filter(|other| other != old);
        let arg = Arg::new(*old).long(flag.as_str()).hide(true).conflicts_with_all(others.chain([field.key.as_str()]));
        with_values(if flag == old { arg } else { arg.alias(*old) }, field)
    };
    table.old_names(field).map(flag).collect()
}

/// What may stand behind the flag.
fn with_values(arg: Arg, field: &'static Field) -> Arg {
    let arg = arg.action(ArgAction::Set).allow_negative_numbers(true);
    if let Some(bare) = &field.bare {
        return arg.num_args(0..=1).default_missing_value(bare.as_str());
    }
    match &field.kind {
        Kind::Bool => arg.num_args(0..=1).default_missing_value("true"),
        Kind::List(kind) => {
            let arg = arg.num_args(1..).action(ArgAction::Append);
            let arg = if field.commas { arg.value_delimiter(',') } else { arg };
            out_of(arg, kind, field)
        }
        kind => out_of(arg, kind, field),
    }
}

/// Names the values of a closed choice.
fn out_of(arg: Arg, kind: &'static Kind, field: &Field) -> Arg {
    match kind {
        Kind::Choice(names) if !field.optional => {
            arg.value_parser(PossibleValuesParser::new(names.iter().map(String::as_str)))
        }
        _ => arg,
    }
}

/// `--no-packing`, as TRL accepts it too.
fn negation(field: &'static Field) -> Arg {
    let [long, alias] = &field.negations;
    Arg::new(alias.as_str())
        .long(long.as_str())
        .alias(alias.as_str())
        .hide(true)
        .action(ArgAction::SetTrue)
        .conflicts_with(field.key.as_str())
}

fn value_name(field: &Field) -> &'static str {
    match &field.kind {
        Kind::Bool => "BOOL",
        Kind::Integer => "N",
        Kind::Number => "X",
        Kind::Text | Kind::Choice(_) => "NAME",
        Kind::List(_) => "LIST",
        Kind::Json => "JSON",
    }
}

/// The first sentence for `-h`, everything for `--help`.
fn help(field: &Field) -> (String, String) {
    let mut long = field.help.clone();
    if !long.contains("Default") && !field.default.is_null() {
        let default = field.default.as_str().map_or_else(|| field.default.to_string(), str::to_owned);
        if !default.is_empty() {
            long = format!("{} Default {default}.", long.trim_end());
        }
    }
    let joined = long.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    let short = joined.split_once(". ").map_or(joined.as_str(), |(first, _)| first).trim_end_matches('.').to_owned();
    (short, long)
}

impl<T: HasTable> FromArgMatches for Flags<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = BTreeMap::new();
        let mut notes = Vec::new();
        let words = |id: &str| -> Option<Vec<String>> {
            let was_given = matches.value_source(id) == Some(ValueSource::CommandLine);
            was_given.then(|| matches.get_many::<String>(id).into_iter().flatten().cloned().collect())
        };
        for field in &T::table().fields {
            given.extend(words(&field.key).map(|words| (field.key.clone(), words)));
            for (old, flag) in T::table().old_names(field) {
                if let Some(words) = words(old) {
                    notes.push(format!("--{flag} is called --{} now", field.flag));
                    given.insert(field.key.clone(), words);
                }
            }
            if field.kind == Kind::Bool && matches.get_flag(&field.negations[1]) {
                given.insert(field.key.clone(), vec!["false".to_owned()]);
            }
        }
        Ok(Self { given, notes, table: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
