//! Three sources become one value for each setting, and every fault is reported at once.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    file::{self, Entry},
    flags::{Flags, HasTable},
    names::{Foreign, foreign},
    table::{AUTO, Field, Table, defaults},
};
use crate::fault::Fault;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub(crate) enum Origin {
    /// `--flag`
    Flag { flag: String },
    /// A line of the `--config` file.
    File { path: PathBuf, line: u64 },
    /// What the documentation says.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag { flag } => write!(f, "--{flag}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One setting with its value.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// All settings of a command.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) settings: Vec<Setting>,
    /// What a person should know: old names, keys without effect.
    pub(crate) notes: Vec<String>,
}

impl Resolved {
    /// The settings struct `T`, which is part of the command's table.
    pub(crate) fn extract<T: Serialize + DeserializeOwned + Default>(&self) -> Result<T, Fault> {
        let keys = defaults::<T>();
        let own: Map<String, Value> = self
            .settings
            .iter()
            .filter(|setting| keys.contains_key(&setting.key))
            .map(|setting| (setting.key.clone(), setting.value.clone()))
            .collect();
        serde_json::from_value(Value::Object(own))
            .map_err(|error| Fault::input("the settings contradict each other").because(error))
    }

    /// Gives a setting that was left to the machine its value; whether it was.
    pub(crate) fn decide(&mut self, key: &str, value: impl Serialize) -> bool {
        let open = self.settings.iter_mut().find(|setting| setting.key == key && setting.value == AUTO);
        let was_open = open.is_some();
        if let Some(setting) = open {
            setting.value = serde_json::to_value(value).expect("a name");
        }
        was_open
    }

    /// What a person wrote, in a flag or a file.
    pub(crate) fn given(&self) -> impl Iterator<Item = &Setting> {
        self.settings.iter().filter(|setting| setting.origin != Origin::Default)
    }

    /// Where the value of `key` comes from.
    #[cfg(test)]
    fn origin(&self, key: &str) -> Origin {
        self.settings
            .iter()
            .find(|setting| setting.key == key)
            .map_or(Origin::Default, |setting| setting.origin.clone())
    }
}

/// Flags over the file over defaults.
///
/// # Errors
/// Every unknown key and every value of the wrong type, in one error.
pub(crate) fn resolve<T: HasTable>(flags: &Flags<T>, config: Option<&Path>) -> Result<Resolved, Fault> {
    let entries = match config {
        Some(path) => file::read(path)?,
        None => Vec::new(),
    };
    let mut merge = Merge { table: T::table(), faults: Vec::new(), notes: flags.notes.clone() };
    let path = config.unwrap_or(Path::new(""));
    let from_file = merge.file(path, entries);
    let from_flags = merge.flags(flags);
    if !merge.faults.is_empty() {
        return Err(merge.into_fault());
    }
    let settings = T::table()
        .fields
        .iter()
        .map(|field| {
            let chosen = from_flags.iter().chain(&from_file).find(|setting| setting.key == field.key);
            chosen.cloned().unwrap_or_else(|| Setting {
                key: field.key.clone(),
                value: field.default.clone(),
                origin: Origin::Default,
            })
        })
        .collect();
    Ok(Resolved { settings, notes: merge.notes })
}

struct Merge {
    table: &'static Table,
    faults: Vec<String>,
    notes: Vec<String>,
}

impl Merge {
    fn file(&mut self, path: &Path, entries: Vec<Entry>) -> Vec<Setting> {
        let mut settings: Vec<Setting> = Vec::new();
        for Entry { key, value, line } in entries {
            let place = format!("{}:{line}", path.display());
            let Some(field) = self.field(&key, &place) else { continue };
            if let Some(earlier) = settings.iter().find(|setting| setting.key == field.key) {
                self.faults.push(format!("{place}: `{}` is already set at {}", field.key, earlier.origin));
                continue;
            }
            match field.accept(&value) {
                Ok(value) => {
                    let origin = Origin::File { path: path.to_owned(), line };
                    settings.push(Setting { key: field.key.clone(), value, origin });
                }
                Err(reason) => self.faults.push(format!("{place}: `{key}`: {reason}")),
            }
        }
        settings
    }

    fn flags<T: HasTable>(&mut self, flags: &Flags<T>) -> Vec<Setting> {
        let mut settings = Vec::new();
        for (key, words) in &flags.given {
            let Some(field) = self.table.field(key) else { continue };
            match field.accept_words(words) {
                Ok(value) => {
                    let origin = Origin::Flag { flag: field.flag.clone() };
                    settings.push(Setting { key: key.clone(), value, origin });
                }
                Err(reason) => self.faults.push(format!("--{}: {reason}", field.flag)),
            }
        }
        settings
    }

    /// The field that a key of the file means.
    fn field(&mut self, key: &str, place: &str) -> Option<&'static Field> {
        // A flag's name is accepted as a key as well: `max-length`, `model`.
        let known = |name: &str| {
            self.table.fields.iter().find(|field| {
                field.key == name || field.flag == name || field.aliases.iter().any(|alias| alias == name)
            })
        };
        if let Some(field) = known(key) {
            return Some(field);
        }
        match foreign(key) {
            Some(Foreign::Renamed(name)) if known(name).is_some() => {
                self.notes.push(format!("{place}: `{key}` is called `{name}` now"));
                known(name)
            }
            Some(Foreign::Ignored(reason)) => {
                self.notes.push(format!("{place}: `{key}` has no effect: {reason}"));
                None
            }
            Some(Foreign::Refused(reason)) => {
                self.faults.push(format!("{place}: `{key}` is not supported: {reason}"));
                None
            }
            Some(Foreign::Renamed(_)) | None => {
                let guess = nearest(key, self.table.fields.iter().map(|field| field.key.as_str()));
                let guess = guess.map(|name| format!(", did you mean `{name}`?")).unwrap_or_default();
                self.faults.push(format!("{place}: unknown setting `{key}`{guess}"));
                None
            }
        }
    }

    fn into_fault(self) -> Fault {
        let fault = match self.faults.as_slice() {
            [only] => Fault::input(only.clone()),
            many => Fault::input(format!("{} settings are wrong:\n  {}", many.len(), many.join("\n  "))),
        };
        fault.hint("--help lists every setting; a file spells them with underscores")
    }
}

/// The known name that `key` most probably was meant to be.
pub(crate) fn nearest<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (name, strsim::jaro_winkler(key, name)))
        .filter(|(_, likeness)| *likeness > 0.85)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::LazyLock};

    use clap::{Args as _, FromArgMatches as _};
    use schemars::JsonSchema;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        /// The model. More words.
        #[schemars(extend("x-flag" = "model"))]
        model_name_or_path: Option<String>,
        /// Peak learning rate. Default 2e-5.
        learning_rate: f64,
        max_length: Option<usize>,
        packing: bool,
        lr_scheduler_type: Schedule,
        lora_target_modules: Option<Vec<String>>,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum Schedule {
        /// Straight down.
        Linear,
        /// Half a cosine.
        Cosine,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self {
                model_name_or_path: None,
                learning_rate: 2e-5,
                max_length: Some(1024),
                packing: false,
                lr_scheduler_type: Schedule::Linear,
                lora_target_modules: None,
            }
        }
    }

    static TABLE: LazyLock<Table> = LazyLock::new(|| Table::default().with::<Sample>("Sample"));

    #[derive(Debug)]
    struct Command;

    impl HasTable for Command {
        fn table() -> &'static Table {
            &TABLE
        }
    }

    fn parse(words: &[&str]) -> Result<Flags<Command>, clap::Error> {
        let command = Flags::<Command>::augment_args(clap::Command::new("sample").no_binary_name(true));
        Flags::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    fn run(words: &[&str], yaml: Option<&str>) -> Result<(Sample, Resolved), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.yaml");
        let config = yaml.map(|text| {
            fs::write(&path, text).unwrap();
            path.as_path()
        });
        let place = |text: String| text.replace(&path.display().to_string(), "run.yaml");
        let flags = parse(words).map_err(|error| error.to_string())?;
        let resolved = resolve(&flags, config).map_err(|fault| place(fault.to_string()))?;
        let sample = resolved.extract::<Sample>().map_err(|fault| fault.to_string())?;
        Ok((sample, resolved))
    }

    fn origin(resolved: &Resolved, key: &str) -> String {
        resolved.origin(key).to_string().rsplit('/').next().unwrap().to_owned()
    }

    #[test]
    fn nothing_given_is_the_default() {
        let (sample, resolved) = run(&[], None).unwrap();
        assert_eq!(sample, Sample::default());
        assert!(resolved.settings.iter().all(|setting| setting.origin == Origin::Default));
    }

    #[test]
    fn flags_win_over_the_file_which_wins_over_defaults() {
        let (sample, resolved) =
            run(&["--learning-rate", "1e-3"], Some("learning_rate: 5e-4\nmax_length: 7\n")).unwrap();
        assert_eq!((sample.learning_rate, sample.max_length, sample.packing), (1e-3, Some(7), false));
        assert_eq!(origin(&resolved, "learning_rate"), "--learning-rate");
        assert_eq!(origin(&resolved, "max_length"), "run.yaml:2");
        assert_eq!(origin(&resolved, "packing"), "default");
    }

    #[test]
    fn flags_are_accepted_in_the_spellings_of_trl() {
        let words = ["--model_name_or_path", "a", "--learning_rate=3e-4", "--packing", "--max_length", "none"];
        let (sample, _) = run(&words, None).unwrap();
        assert_eq!(sample.model_name_or_path.as_deref(), Some("a"));
        assert_eq!((sample.learning_rate, sample.packing, sample.max_length), (3e-4, true, None));
        let (sample, _) = run(&["--model", "b", "--no_packing"], Some("packing: true")).unwrap();
        assert_eq!((sample.model_name_or_path.as_deref(), sample.packing), (Some("b"), false));
        assert!(!run(&["--packing", "false"], None).unwrap().0.packing);
    }

    #[test]
    fn lists_take_words_and_commas() {
        for words in [&["--lora-target-modules", "q_proj", "v_proj"][..], &["--lora_target_modules", "q_proj,v_proj"]] {
            let (sample, _) = run(words, None).unwrap();
            assert_eq!(sample.lora_target_modules.unwrap(), ["q_proj", "v_proj"]);
        }
        let (sample, _) = run(&[], Some("lora_target_modules: all-linear")).unwrap();
        assert_eq!(sample.lora_target_modules.unwrap(), ["all-linear"]);
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let yaml =
            "learing_rate: 1e-3\nmax_length: long\nuse_vllm: true\npacking: 3\nfoo: 1\nlr_scheduler_type: cosin\n";
        let faults = run(&["--learning-rate", "fast"], Some(yaml)).unwrap_err();
        assert_eq!(
            faults,
            "7 settings are wrong:\n  \
             run.yaml:1: unknown setting `learing_rate`, did you mean `learning_rate`?\n  \
             run.yaml:2: `max_length`: expected a whole number of at least 0 or none, found `long`\n  \
             run.yaml:3: `use_vllm` is not supported: training runs in one process\n  \
             run.yaml:4: `packing`: expected true or false, found `3`\n  \
             run.yaml:5: unknown setting `foo`\n  \
             run.yaml:6: `lr_scheduler_type`: expected one of linear, cosine, found `cosin`\n  \
             --learning-rate: expected a number, found `fast`"
        );
    }

    #[test]
    fn old_names_are_accepted_with_a_note() {
        let (sample, resolved) = run(&[], Some("max_seq_length: 512\nreport_to: none\n")).unwrap();
        assert_eq!(sample.max_length, Some(512));
        let notes: Vec<_> = resolved.notes.iter().map(|note| note.rsplit('/').next().unwrap()).collect();
        assert_eq!(
            notes,
            [
                "run.yaml:1: `max_seq_length` is called `max_length` now",
                "run.yaml:2: `report_to` has no effect: metrics are always written to the output folder",
            ]
        );
    }

    #[test]
    fn old_names_are_flags_too() {
        for flag in ["--max-seq-length", "--max_seq_length", "--cutoff-len"] {
            let (sample, resolved) = run(&[flag, "512", "--lr=1e-3"], Some("max_length: 3")).unwrap();
            assert_eq!((sample.max_length, sample.learning_rate), (Some(512), 1e-3));
            let spelled = flag.replace('_', "-");
            assert_eq!(
                resolved.notes,
                ["--lr is called --learning-rate now".to_owned(), format!("{spelled} is called --max-length now")]
            );
        }
        assert!(
            run(&["--max-seq-length", "1", "--max-length", "2"], None).unwrap_err().contains("cannot be used with")
        );
        assert!(run(&["--lr", "fast"], None).unwrap_err().starts_with("--learning-rate: expected a number"));
    }

    #[test]
    fn a_setting_given_twice_in_the_file_is_a_fault() {
        let faults = run(&[], Some("max_length: 1\nmax_seq_length: 2\n")).unwrap_err();
        assert_eq!(faults, "run.yaml:2: `max_length` is already set at run.yaml:1");
    }

    #[test]
    fn a_negative_size_is_refused_with_the_reason() {
        let faults = run(&["--max-length", "-3"], None).unwrap_err();
        assert_eq!(faults, "--max-length: expected a whole number of at least 0 or none, found `-3`");
    }

    #[test]
    fn a_plan_says_where_each_value_comes_from() {
        let (_, resolved) = run(&["--packing"], Some("max_length: 8")).unwrap();
        let plan = super::super::Plan { command: "sft", resolved: &resolved, facts: Vec::new() };
        let json = plan.to_json();
        assert_eq!(
            json["settings"]["packing"],
            json!({ "value": true, "origin": { "kind": "flag", "flag": "packing" } })
        );
        assert_eq!(json["settings"]["max_length"]["origin"]["line"], 1);
        assert_eq!(json["settings"]["learning_rate"]["origin"], json!({ "kind": "default" }));
    }
}
