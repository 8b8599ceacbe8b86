//! The terminal while the dashboard has it, and as it was before.
//!
//! The renderer gives the terminal back where it ends in order. Where the process ends at once, that is done here.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};

use crate::talk;

/// How the terminal was set up before it was taken; `None` where nobody took it.
static TAKEN: Mutex<Option<Mode>> = Mutex::new(None);

/// Leaves the alternate screen, and reports the mouse no more (`crossterm`'s `LeaveAlternateScreen`, `DisableMouseCapture`).
const LEAVE: &str = "\x1b[?1006l\x1b[?1015l\x1b[?1003l\x1b[?1002l\x1b[?1000l\x1b[?1049l";

const SHOW_CURSOR: &str = "\x1b[?25h";

/// Whether a dashboard can be shown, and its keys read.
pub(super) fn is_there() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Notes how the terminal is set up; talk is held back from now on.
pub(super) fn take() -> io::Result<()> {
    *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(mode()?);
    talk::hold();
    Ok(())
}

/// Sets the terminal up as it was, if it was taken. What the renderer draws on is left already.
pub(crate) fn restore() {
    let Some(before) = TAKEN.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    set_mode(&before);
    // Nothing can be done about a terminal that is gone.
    let mut stdout = io::stdout();
    let _ = stdout.write_all(SHOW_CURSOR.as_bytes()).and_then(|()| stdout.flush());
    talk::release();
}

/// As [`restore`], where the renderer is still drawing.
pub(crate) fn leave() {
    if is_taken() {
        let _ = io::stdout().write_all(LEAVE.as_bytes());
    }
    restore();
}

/// Whether the dashboard has the terminal.
pub(crate) fn is_taken() -> bool {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

#[cfg(unix)]
pub(super) use self::unix::let_ctrl_c_interrupt;
#[cfg(unix)]
use self::unix::{Mode, mode, set_mode};

#[cfg(unix)]
mod unix {
    use std::io;

    use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

    pub(super) type Mode = Termios;

    /// What stands for a special character that no key gives (`_POSIX_VDISABLE`).
    const NO_KEY: u8 = 0;

    pub(super) fn mode() -> io::Result<Mode> {
        Ok(termios::tcgetattr(io::stdin())?)
    }

    pub(super) fn set_mode(mode: &Mode) {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, mode);
    }

    /// Makes Ctrl-C a signal again once the renderer has made it a key like any other; a suspended dashboard would leave
    /// the terminal to the shell as it is, so Ctrl-Z stays a key.
    pub(in super::super) fn let_ctrl_c_interrupt() {
        let Ok(mut mode) = mode() else { return };
        if !mode.local_modes.contains(LocalModes::ICANON) && !mode.local_modes.contains(LocalModes::ISIG) {
            mode.local_modes.insert(LocalModes::ISIG);
            for key in [SpecialCodeIndex::VSUSP, SpecialCodeIndex::VQUIT] {
                mode.special_codes[key] = NO_KEY;
            }
            set_mode(&mode);
        }
    }
}

#[cfg(not(unix))]
pub(super) use self::elsewhere::let_ctrl_c_interrupt;
#[cfg(not(unix))]
use self::elsewhere::{Mode, mode, set_mode};

#[cfg(not(unix))]
mod elsewhere {
    use std::io;

    pub(super) type Mode = ();

    pub(super) fn mode() -> io::Result<Mode> {
        Ok(())
    }

    pub(super) fn set_mode(_mode: &Mode) {}

    pub(in super::super) fn let_ctrl_c_interrupt() {}
}
