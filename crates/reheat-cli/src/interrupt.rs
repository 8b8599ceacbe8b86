//! Ctrl-C: the first asks the work to stop where it can, the second leaves at once.

use std::io;
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Set by SIGINT and SIGTERM.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over both signals. While the flag is set, another one ends the process with exit code 130.
    ///
    /// The process has one flag: with several, one that nobody resets any more would make a first signal a second one.
    pub(crate) fn install() -> io::Result<Self> {
        static INSTALLED: OnceLock<Interrupt> = OnceLock::new();
        if let Some(installed) = INSTALLED.get() {
            return Ok(installed.clone());
        }
        let raised = Arc::new(AtomicBool::new(false));
        watch(&raised)?;
        Ok(INSTALLED.get_or_init(|| Self(raised)).clone())
    }

    /// Whether the work was asked to stop.
    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes the next signal a first one again.
    pub(crate) fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Sets the flag at a signal, and ends the process at one while it is set.
///
/// From a thread, not from the handlers: a handler could not give the terminal back.
#[cfg(unix)]
fn watch(raised: &Arc<AtomicBool>) -> io::Result<()> {
    let raised = Arc::clone(raised);
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            if raised.swap(true, Ordering::Relaxed) {
                crate::dashboard::leave();
                signal_hook::low_level::exit(130);
            }
        }
    })?;
    Ok(())
}

#[cfg(not(unix))]
fn watch(raised: &Arc<AtomicBool>) -> io::Result<()> {
    use signal_hook::flag;

    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 130, Arc::clone(raised))?;
        flag::register(signal, Arc::clone(raised))?;
    }
    Ok(())
}
