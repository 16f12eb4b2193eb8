//! Times as people tell them.

use std::path::Path;
use std::time::{Duration, SystemTime};

/// How long ago a file was written, if that is known.
pub fn ago(path: &Path) -> Option<String> {
    let written = path.metadata().ok()?.modified().ok()?;
    // A clock that went back is no reason to say nothing.
    Some(age_in_words(SystemTime::now().duration_since(written).unwrap_or_default()))
}

/// A number of seconds, 0 to a day.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let given = text.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    given.map(Duration::from_secs_f64).ok_or_else(|| "expected 0 to 86400".into())
}

/// A time to come.
pub fn in_words(seconds: f64) -> String {
    match seconds.ceil() as u64 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds.div_ceil(60)),
        seconds @ 7_200..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        seconds => format!("{} days", seconds.div_ceil(86_400)),
    }
}

fn age_in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400 * 365, "year"), (86_400 * 30, "month"), (86_400, "day"), (3_600, "hour"), (60, "minute")];
    match units.iter().find(|(length, _)| seconds >= *length) {
        None => "less than a minute ago".into(),
        Some((length, unit)) if seconds / length == 1 => format!("1 {unit} ago"),
        Some((length, unit)) => format!("{} {unit}s ago", seconds / length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_come_get_coarser() {
        for (seconds, text) in
            [(0.0, "0 s"), (119.0, "119 s"), (119.5, "2 min"), (7_300.0, "2 h 1 min"), (2e5, "3 days")]
        {
            assert_eq!(in_words(seconds), text);
        }
    }

    #[test]
    fn the_largest_whole_unit_counts() {
        for (seconds, text) in [
            (0, "less than a minute ago"),
            (60, "1 minute ago"),
            (7_199, "1 hour ago"),
            (7_200, "2 hours ago"),
            (86_400 * 29, "29 days ago"),
            (86_400 * 364, "12 months ago"),
            (86_400 * 800, "2 years ago"),
        ] {
            assert_eq!(age_in_words(Duration::from_secs(seconds)), text);
        }
    }
}
