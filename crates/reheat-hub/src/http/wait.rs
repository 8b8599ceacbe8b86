//! How long to wait before the next attempt.

use std::thread;
use std::time::{Duration, Instant};

use ureq::http::HeaderMap;

use super::tell;
use crate::{Event, HubError, Progress};

/// Longest wait of our own choice.
const MAX_BACKOFF: Duration = Duration::from_secs(16);
/// Longest wait on a server's wish: its windows are five minutes long.
const MAX_WISH: Duration = Duration::from_secs(330);
/// Between two looks at whether the caller wants to stop.
const TICK: Duration = Duration::from_millis(100);

/// The wait after the failed attempt number `attempt` (from 1): what the server asks for, else twice the one before.
///
/// # Errors
/// If the server asks for more than anyone would wait.
pub(super) fn before_attempt(
    attempt: u32,
    first: Duration,
    wish: Option<Duration>,
    logged_in: bool,
) -> Result<Duration, HubError> {
    match wish {
        Some(wait) if wait > MAX_WISH => Err(HubError::RateLimited { wait, logged_in }),
        Some(wait) => Ok(wait),
        None => Ok(backoff(attempt, first)),
    }
}

/// Twice the wait before, up to a limit.
pub(super) fn backoff(attempt: u32, first: Duration) -> Duration {
    first.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(MAX_BACKOFF)
}

/// Waits, and tells the caller why.
pub(crate) fn pause(wait: Duration, reason: String, progress: &Progress) -> Result<(), HubError> {
    let until = Instant::now() + wait;
    tell(&Event::Waiting { reason, time: Some(wait) }, progress)?;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::sleep(left.min(TICK));
        tell(&Event::Bytes(0), progress)?;
    }
    Ok(())
}

/// What the headers of an answer ask for: `RateLimit` with nothing remaining, else `Retry-After` in seconds.
///
/// The first is of draft-ietf-httpapi-ratelimit-headers-09, as the Hub sends it: `"api";r=0;t=55`.
pub(super) fn wish(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let limit = text("ratelimit").and_then(|limit| {
        let value = |key: &str| {
            let (_, value) =
                limit.split(';').filter_map(|part| part.trim().split_once('=')).find(|(k, _)| *k == key)?;
            value.parse::<u64>().ok()
        };
        (value("r")? == 0).then(|| value("t"))?
    });
    let seconds = limit
        // A second more, since the header is rounded.
        .map(|seconds| seconds.saturating_add(1))
        .or_else(|| text("retry-after")?.trim().parse().ok())?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish_of(pairs: &[(&'static str, &str)]) -> Option<u64> {
        let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        wish(&headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn the_server_says_how_long_to_wait() {
        assert_eq!(wish_of(&[("ratelimit", "\"api\";r=0;t=55")]), Some(56));
        assert_eq!(wish_of(&[("ratelimit", "\"api\";r=0;t=55"), ("retry-after", "3")]), Some(56));
        assert_eq!(wish_of(&[("ratelimit", "\"api\";r=9;t=55"), ("retry-after", "3")]), Some(3));
        assert_eq!(wish_of(&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")]), None);
        assert_eq!(wish_of(&[("ratelimit", "nonsense")]), None);
        assert_eq!(wish_of(&[]), None);
    }

    #[test]
    fn waits_double_up_to_a_limit() {
        let waits = [1, 2, 3, 9].map(|attempt| before_attempt(attempt, Duration::from_secs(1), None, false).unwrap());
        assert_eq!(waits.map(|wait| wait.as_secs()), [1, 2, 4, 16]);
        let hour = Some(Duration::from_secs(3600));
        assert!(matches!(before_attempt(1, TICK, hour, false), Err(HubError::RateLimited { .. })));
    }
}
