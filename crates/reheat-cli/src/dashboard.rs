//! The dashboard of `--tui`: live curves on burn-train's terminal renderer.
//!
//! Of the renderer this must be known: it draws from a thread of its own; raw mode makes Ctrl-C a key that it does not
//! know; where a person lets it kill the run, it panics in the thread that tells it something next, and only then.
//! So it is told from one thread here, ten times a second and whether or not there is anything new.

mod screen; // the terminal itself

use std::collections::BTreeSet;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use burn_train::{
    Interrupter,
    logger::TrainingProgressLogger as _,
    metric::{
        MetricAttributes, MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry, SerializedEntry,
    },
    renderer::{MetricState, MetricsRenderer as _, MetricsRendererTraining as _, tui::TuiMetricsRendererWrapper},
};
use reheat_train::{EvalRow, LogRow, TrainStart};

pub(crate) use self::screen::{is_taken, leave, restore};
use crate::interrupt::Interrupt;

/// Between two times that the renderer is told something.
const TICK: Duration = Duration::from_millis(100);

/// Exit code of a run that was killed from the dashboard, as of one that was interrupted.
const KILLED: i32 = 130;

/// Metrics that come first, where there are such; the others follow by name.
const FIRST: [&str; 2] = ["reward", "loss"];

/// Where a run is, in the units of its progress.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    total_steps: u64,
    steps_per_epoch: u64,
    /// Steps that a run before this one took.
    first_step: u64,
}

impl Progress {
    pub(crate) fn new(start: &TrainStart, steps_per_epoch: u64) -> Self {
        let steps_per_epoch = steps_per_epoch.clamp(1, start.total_steps.max(1));
        Self { total_steps: start.total_steps, steps_per_epoch, first_step: start.step }
    }

    fn num_epochs(self) -> usize {
        self.total_steps.div_ceil(self.steps_per_epoch).max(1) as usize
    }

    /// The epoch of a step, from 0, and the number of its steps that are done.
    fn within(self, step: u64) -> (usize, usize) {
        let epoch = step.saturating_sub(1) / self.steps_per_epoch;
        (epoch as usize, (step - epoch * self.steps_per_epoch) as usize)
    }
}

/// Live curves on the whole terminal.
pub(crate) struct Dashboard {
    told: Sender<Told>,
    thread: Option<JoinHandle<()>>,
    interrupter: Interrupter,
}

/// What the dashboard gets to show.
enum Told {
    /// A step, what else is known of it by name, and words on the time that is left.
    Step {
        row: Box<LogRow>,
        also: Vec<(&'static str, f64)>,
        left: String,
    },
    Evaluation(EvalRow),
    Saved,
    Note(String),
    Close,
}

impl Dashboard {
    /// Whether one can be shown.
    pub(crate) fn is_possible() -> bool {
        screen::is_there()
    }

    /// Takes the terminal over; talk is held back until [`close`](Self::close).
    ///
    /// # Errors
    /// If it is no terminal after all, or no thread starts.
    pub(crate) fn open(name: &str, progress: Progress, interrupt: Interrupt) -> std::io::Result<Self> {
        screen::take()?;
        let interrupter = Interrupter::new();
        let (told, receiver) = mpsc::channel();
        let shown = Shown {
            name: name.to_owned(),
            progress,
            step: progress.first_step,
            left: String::new(),
            known: BTreeSet::new(),
            interrupt,
            interrupter: interrupter.clone(),
        };
        let thread = thread::Builder::new().name("dashboard".into()).spawn(move || shown.run(&receiver))?;
        Ok(Self { told, thread: Some(thread), interrupter })
    }

    /// Whether a person asked the run to stop.
    pub(crate) fn wants_stop(&self) -> bool {
        self.interrupter.should_stop()
    }

    /// Shows a step, and what else is known of it by name.
    pub(crate) fn step(&self, row: &LogRow, also: Vec<(&'static str, f64)>, left: String) {
        self.tell(Told::Step { row: Box::new(row.clone()), also, left });
    }

    /// Shows an evaluation.
    pub(crate) fn evaluation(&self, row: &EvalRow) {
        self.tell(Told::Evaluation(row.clone()));
    }

    /// Counts a checkpoint.
    pub(crate) fn saved(&self) {
        self.tell(Told::Saved);
    }

    /// Shows a line, until the next.
    pub(crate) fn note(&self, line: &str) {
        self.tell(Told::Note(console::strip_ansi_codes(line).into_owned()));
    }

    fn tell(&self, told: Told) {
        // Whoever listened ended the process, if it no longer does.
        let _ = self.told.send(told);
    }

    /// Gives the terminal back and prints what was held back.
    pub(crate) fn close(&mut self) {
        self.tell(Told::Close);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        screen::restore();
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread that tells the renderer.
struct Shown {
    name: String,
    progress: Progress,
    step: u64,
    left: String,
    /// Metrics that the renderer knows.
    known: BTreeSet<String>,
    interrupt: Interrupt,
    interrupter: Interrupter,
}

impl Shown {
    fn run(mut self, told: &Receiver<Told>) {
        let first_epoch = self.progress.within(self.progress.first_step).0;
        let mut renderer = TuiMetricsRendererWrapper::new(self.interrupter.clone(), Some(first_epoch));
        let ended = panic::catch_unwind(AssertUnwindSafe(|| {
            loop {
                match told.recv_timeout(TICK) {
                    Ok(Told::Close) | Err(RecvTimeoutError::Disconnected) => break,
                    Ok(told) => self.show(&mut renderer, told),
                    Err(RecvTimeoutError::Timeout) => {}
                }
                screen::let_ctrl_c_interrupt();
                self.show_progress(&mut renderer);
            }
        }));
        if ended.is_err() {
            // The renderer's own hook has left the screen, and said that the run was killed.
            screen::restore();
            eprintln!("nothing was saved; checkpoints that there were before are still there");
            std::process::exit(KILLED);
        }
    }

    fn show(&mut self, renderer: &mut TuiMetricsRendererWrapper, told: Told) {
        match told {
            Told::Step { row, also, left } => {
                (self.step, self.left) = (row.step, left);
                let own = [("loss", row.loss), ("grad_norm", row.grad_norm), ("learning_rate", row.learning_rate)];
                let all = row.metrics.iter().map(|(name, value)| (name.as_str(), *value)).chain(own).chain(also);
                let (first, others): (Vec<_>, Vec<_>) = all.partition(|(name, _)| FIRST.contains(name));
                for (name, value) in first.into_iter().chain(others) {
                    let state = self.numeric(renderer, name, value);
                    renderer.update_train(state);
                }
            }
            Told::Evaluation(row) => {
                let metrics = row.metrics.iter().map(|(name, value)| (name.as_str(), *value));
                for (name, value) in [("loss", row.loss)].into_iter().chain(metrics) {
                    let state = self.numeric(renderer, name, value);
                    renderer.update_valid(state);
                }
            }
            Told::Saved => renderer.log_event_training("Saved".into()),
            Told::Note(line) => {
                let state = MetricState::Generic(self.entry(renderer, "note", MetricAttributes::None, line));
                renderer.update_train(state);
            }
            Told::Close => {}
        }
    }

    fn numeric(&mut self, renderer: &mut TuiMetricsRendererWrapper, name: &str, value: f64) -> MetricState {
        let attributes = MetricAttributes::Numeric(NumericAttributes::default());
        let entry = self.entry(renderer, name, attributes, readable(value));
        MetricState::Numeric(entry, Some(NumericEntry::Value(value)))
    }

    /// What the renderer writes of a metric, which it is told of before.
    fn entry(
        &mut self,
        renderer: &mut TuiMetricsRendererWrapper,
        name: &str,
        attributes: MetricAttributes,
        text: String,
    ) -> MetricEntry {
        let metric_id = MetricId::new(Arc::new(name.to_owned()));
        if self.known.insert(name.to_owned()) {
            let (metric_id, name) = (metric_id.clone(), Arc::new(name.to_owned()));
            renderer.register_metric(MetricDefinition { metric_id, name, description: None, attributes });
        }
        MetricEntry::new(metric_id, SerializedEntry::new(text.clone(), text))
    }

    fn show_progress(&self, renderer: &mut TuiMetricsRendererWrapper) {
        let label = if self.interrupt.is_raised() || self.interrupter.should_stop() {
            format!("{}, stopping after this step", self.name)
        } else {
            format!("{} {}", self.name, self.left)
        };
        let Progress { steps_per_epoch, .. } = self.progress;
        let (epoch, done) = self.progress.within(self.step);
        renderer.start(self.progress.num_epochs(), epoch, Some(steps_per_epoch as usize), Some(&label));
        renderer.update_epoch(epoch);
        renderer.update_split(done);
    }
}

/// Five digits that count, without an exponent where that is short.
fn readable(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 0.01 => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_steps_within_epochs() {
        let progress = Progress { total_steps: 25, steps_per_epoch: 10, first_step: 0 };
        assert_eq!(progress.num_epochs(), 3);
        assert_eq!([0, 1, 10, 11, 25].map(|step| progress.within(step)), [(0, 0), (0, 1), (0, 10), (1, 1), (2, 5)]);
    }

    /// Set in the process that panics.
    #[cfg(unix)]
    const PANICS: &str = "REHEAT_TEST_PANICS_UNDER_THE_DASHBOARD";

    /// What a method does that has a bug.
    #[cfg(unix)]
    fn panic_under_the_dashboard() {
        crate::fault::install_panic_hook();
        let progress = Progress { total_steps: 10, steps_per_epoch: 10, first_step: 0 };
        let dashboard = Dashboard::open("test", progress, Interrupt::install().unwrap()).unwrap();
        dashboard.note("about to fail");
        thread::sleep(5 * TICK);
        panic!("index out of bounds");
    }

    /// Runs itself again in a terminal of its own.
    #[cfg(unix)]
    #[test]
    fn a_panic_leaves_a_terminal_that_can_be_used_and_says_what_happened() {
        use std::fs::File;
        use std::io::Read as _;
        use std::process::{Command, Stdio};

        use nix::pty::{Winsize, openpty};
        use nix::sys::termios::{LocalFlags, tcgetattr};

        if std::env::var_os(PANICS).is_some() {
            return panic_under_the_dashboard();
        }
        let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let side = || Stdio::from(pty.slave.try_clone().unwrap());
        let name = thread::current().name().unwrap().to_owned();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &name, "--nocapture"]).env(PANICS, "1");
        let mut child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        drop(command);

        let mut screen = File::from(pty.master.try_clone().unwrap());
        let reader = thread::spawn(move || {
            let (mut written, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                written.extend(&buffer[..count]);
            }
            String::from_utf8_lossy(&written).into_owned()
        });
        let status = child.wait().unwrap();
        let after = tcgetattr(&pty.slave).unwrap();
        drop(pty.slave);
        let written = reader.join().unwrap();

        assert_eq!(status.code(), Some(1), "{written}");
        assert_eq!(after, before, "the mode of the terminal");
        assert!(after.local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG));
        let (screen, ordinary) = written.rsplit_once("\x1b[?1049l").expect("the alternate screen is left");
        assert!(screen.contains("\x1b[?1049h") && screen.contains("about to fail"), "{written}");
        assert!(ordinary.contains("internal fault: index out of bounds"), "{written}");
        assert!(ordinary.contains("\x1b[?25h"), "the cursor: {written}");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 2.53219, -0.5, 2e-5, 12_345.6].map(readable), ["0", "2.5322", "-0.5000", "2.000e-5", "12346"]);
    }
}
