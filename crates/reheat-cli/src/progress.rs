//! Progress of a training run: a bar on a terminal, plain lines elsewhere, a dashboard where it is asked for.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use reheat_model::Qwen2;
use reheat_train::{
    Advice, Callback, Control, EvalRow, Health, LogRow, RowShares, TrainError, TrainStart, TrainingConfig,
};

use crate::{
    curves::{self, Curves},
    dashboard::{self, Dashboard},
    interrupt::Interrupt,
    samples::Samples,
    talk,
};

/// Longest silence of a plain log.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Looks at every step and gives what there is to tell.
pub(crate) type Watch = Box<dyn FnMut(&LogRow) -> Option<String>>;

/// Shows a run and passes Ctrl-C on to it.
pub(crate) struct TrainingProgress {
    interrupt: Interrupt,
    shown: Shown,
    total_steps: u64,
    /// Steps taken before this process.
    first_step: u64,
    started: Instant,
    /// Smoothed, so that the number can be read.
    tokens_per_second: Option<f64>,
    /// Every step's numbers.
    pub(crate) curves: Curves,
    /// Where the curves are drawn while training, and when they were last.
    plots: Option<(PathBuf, Instant)>,
    samples: Option<Samples>,
    health: Health,
    watch: Option<Watch>,
}

/// Shortest time between two drawings of the curves.
const PLOT_INTERVAL: Duration = Duration::from_secs(15);

enum Shown {
    /// Until the first step is about to be taken.
    Unopened {
        name: &'static str,
        config: Box<TrainingConfig>,
    },
    Dashboard(Dashboard),
    Bar(ProgressBar),
    Lines {
        last: Option<Instant>,
    },
    Nothing,
}

impl TrainingProgress {
    pub(crate) fn new(interrupt: Interrupt) -> Self {
        let shown = if std::io::stderr().is_terminal() {
            Shown::Bar(ProgressBar::hidden())
        } else {
            Shown::Lines { last: None }
        };
        Self {
            interrupt,
            shown,
            total_steps: 0,
            first_step: 0,
            started: Instant::now(),
            tokens_per_second: None,
            curves: Curves::default(),
            plots: None,
            samples: None,
            health: Health::new(),
            watch: None,
        }
    }

    /// Shows live curves on the whole terminal, where there is one.
    pub(crate) fn with_dashboard(self, name: &'static str, config: &TrainingConfig) -> Self {
        if Dashboard::is_possible() {
            return Self { shown: Shown::Unopened { name, config: Box::new(config.clone()) }, ..self };
        }
        eprintln!("note: --tui needs a terminal for input and output, and this is none: no dashboard is shown");
        self
    }

    /// Tells what `watch` finds.
    pub(crate) fn watched(self, watch: Watch) -> Self {
        Self { watch: Some(watch), ..self }
    }

    /// Draws the curves into a folder from time to time.
    pub(crate) fn with_plots(self, dir: PathBuf) -> Self {
        Self { plots: Some((dir, Instant::now())), ..self }
    }

    /// Asks the model the same questions at each evaluation.
    pub(crate) fn with_samples(self, samples: Samples) -> Self {
        Self { samples: Some(samples), ..self }
    }

    /// Says what is unusual about the settings.
    pub(crate) fn advise_before(&mut self, model: &Qwen2, config: &TrainingConfig, shares: RowShares) {
        let num_parameters = model.config().num_parameters() as u64;
        let trains_all = model.lora_config().is_none();
        let advice = self.health.before(num_parameters, trains_all, config.learning_rate, shares);
        self.advise(&advice);
    }

    fn advise(&self, advice: &[Advice]) {
        for advice in advice {
            self.say(&format!("advice: {advice}"));
        }
    }

    /// A line above the bar.
    fn say(&self, line: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| talk::say(line)),
            Shown::Lines { .. } | Shown::Unopened { .. } => talk::say(line),
            Shown::Dashboard(dashboard) => {
                dashboard.note(line);
                talk::say(line);
            }
            Shown::Nothing => {}
        }
    }

    /// Opens the dashboard if it is wanted, with the curves of the run that goes on.
    fn open_dashboard(&mut self, start: &TrainStart) {
        let Shown::Unopened { name, config } = &self.shown else { return };
        let progress = dashboard::Progress::new(start, config.steps_per_epoch(start.num_rows));
        match Dashboard::open(name, progress, self.interrupt.clone()) {
            Ok(dashboard) => {
                for row in &self.curves.rows {
                    dashboard.step(row, Vec::new(), String::new());
                }
                self.shown = Shown::Dashboard(dashboard);
            }
            Err(error) => {
                eprintln!("note: no dashboard can be shown: {error}");
                self.shown = Shown::Lines { last: None };
            }
        }
    }

    /// Draws the curves if the last drawing is old. A plot that cannot be drawn is no reason to stop a run.
    fn draw_when_due(&mut self) {
        let Some((dir, drawn)) = &mut self.plots else { return };
        if drawn.elapsed() < PLOT_INTERVAL {
            return;
        }
        if let Err(error) = curves::draw_one(&self.curves, dir) {
            tracing::warn!("cannot draw the plots: {error:#}");
        }
        *drawn = Instant::now();
    }

    /// Says nothing, only listens for Ctrl-C and keeps the rows.
    pub(crate) fn silent(interrupt: Interrupt) -> Self {
        Self { shown: Shown::Nothing, ..Self::new(interrupt) }
    }

    /// Removes the bar, or gives the terminal back.
    pub(crate) fn finish(&mut self) {
        match &mut self.shown {
            Shown::Bar(bar) => bar.finish_and_clear(),
            Shown::Dashboard(dashboard) => dashboard.close(),
            Shown::Unopened { .. } | Shown::Lines { .. } | Shown::Nothing => {}
        }
    }

    /// `step 12/50  loss 3.214  1,234 tok/s`
    fn line(&self, row: &LogRow) -> String {
        let speed = self.tokens_per_second.map(|speed| format!("  {} tok/s", thousands(speed))).unwrap_or_default();
        let width = self.total_steps.to_string().len();
        let memory = resident_bytes().map(|bytes| format!("  {:.2} GB", bytes / 1e9)).unwrap_or_default();
        let (step, total) = (row.step, self.total_steps);
        let margin = row.metric("rewards/margins").map(|margin| format!("  margin {margin:+.3}")).unwrap_or_default();
        let reward = row.metric("reward").map(|reward| format!("  reward {reward:.3}")).unwrap_or_default();
        let length = row.metric("completions/mean_length").map(|len| format!("  {len:.0} tokens")).unwrap_or_default();
        // No minus before what is shown as 0.
        let loss = if row.loss.abs() < 5e-5 { 0.0 } else { row.loss };
        format!(
            "step {step:>width$}/{total}  epoch {:.2}  loss {loss:.4}{margin}{reward}{length}{speed}{memory}",
            row.epoch
        )
    }

    fn remaining(&self, step: u64) -> Duration {
        let left = self.total_steps.saturating_sub(step);
        let taken = step.saturating_sub(self.first_step).max(1);
        self.started.elapsed().mul_f64(left as f64 / taken as f64)
    }
}

impl Callback for TrainingProgress {
    fn on_start(&mut self, start: &TrainStart) {
        if let Some(samples) = &self.samples
            && let Err(error) = samples.rewind(start.step)
        {
            tracing::warn!("cannot clear old samples: {error:#}");
        }
        self.total_steps = start.total_steps;
        self.first_step = start.step;
        self.started = Instant::now();
        self.open_dashboard(start);
        if let Shown::Bar(bar) = &mut self.shown {
            *bar = ProgressBar::new(start.total_steps);
            let style =
                ProgressStyle::with_template("{msg}\n{bar:40.cyan/dim} {percent:>3}%  {elapsed} gone, {prefix} left")
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("━╸─");
            bar.set_style(style);
            bar.set_position(start.step);
            bar.enable_steady_tick(Duration::from_millis(200));
        }
    }

    fn on_step(&mut self, row: &LogRow) -> Control {
        // A fifth of each new value: steady enough to read, quick enough to follow.
        let smoothed =
            self.tokens_per_second.map_or(row.tokens_per_second, |old| 0.8 * old + 0.2 * row.tokens_per_second);
        self.tokens_per_second = Some(smoothed);
        let line = self.line(row);
        let remaining = self.remaining(row.step);
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_message(line);
                bar.set_prefix(clock(remaining));
                bar.set_position(row.step);
            }
            Shown::Lines { last } => {
                let now = Instant::now();
                let due = last.is_none_or(|last| now - last >= PLAIN_INTERVAL) || row.step == self.total_steps;
                if due {
                    *last = Some(now);
                    eprintln!("{line}  {} left", clock(remaining));
                }
            }
            Shown::Dashboard(dashboard) => {
                let speed = Some(("tokens per second", row.tokens_per_second));
                let memory = resident_bytes().map(|bytes| ("memory (GB)", bytes / 1e9));
                dashboard.step(row, speed.into_iter().chain(memory).collect(), format!("{} left", clock(remaining)));
            }
            Shown::Unopened { .. } | Shown::Nothing => {}
        }
        let advice = self.health.step(row);
        self.advise(&advice);
        if let Some(notice) = self.watch.as_mut().and_then(|watch| watch(row)) {
            self.say(&format!("note: {notice}"));
        }
        self.curves.rows.push(row.clone());
        self.draw_when_due();
        let wants_stop = matches!(&self.shown, Shown::Dashboard(dashboard) if dashboard.wants_stop());
        if wants_stop || self.interrupt.is_raised() { Control::Stop } else { Control::Continue }
    }

    fn on_save(&mut self, _dir: &Path) {
        if let Shown::Dashboard(dashboard) = &self.shown {
            dashboard.saved();
        }
    }

    fn on_evaluate(&mut self, row: &EvalRow, model: &Qwen2) -> Result<(), TrainError> {
        let perplexity = row.metric("perplexity").map(|value| format!("  perplexity {value:.3}")).unwrap_or_default();
        self.say(&format!("step {}  eval_loss {:.4}{perplexity}", row.step, row.loss));
        if let Shown::Dashboard(dashboard) = &self.shown {
            dashboard.evaluation(row);
        }
        self.curves.evaluations.push(row.clone());
        if let Some(samples) = &self.samples {
            let lines = samples.take(row.step, model);
            lines?.iter().for_each(|line| self.say(line));
        }
        Ok(())
    }
}

/// Memory that this process holds now; known on Linux.
fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

/// A bar for work whose amount is known, hidden where stderr is no terminal.
pub(crate) fn count_bar(what: &'static str, total: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg}  {human_pos}/{human_len}  {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_message(what)
}

/// A bar for work that is counted in rows, `None` where stderr is no terminal.
pub(crate) fn rows_bar(what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg}  {human_pos} rows  {per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::no_length().with_style(style).with_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// `1:02:03`, `2:03`
pub(crate) fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// `12,345`; below 100 with one digit after the point.
pub(crate) fn thousands(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |rest| ("-", rest));
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!(thousands(12.34), "12.3");
        assert_eq!(thousands(999.6), "1,000");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(clock(Duration::from_secs(59)), "0:59");
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
    }
}
