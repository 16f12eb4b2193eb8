//! The kinds of JSON events.

/// Declares the kinds of JSON events with a list of all of them.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What a JSON event is; `docs/guide/json-events.md` documents each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$kind),*];

            /// Its value of `event`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// A message.
    Info = "info",
    /// A message that -v adds.
    Detail = "detail",
    /// Something to know; the run goes on.
    Warning = "warning",
    /// The end of a run that failed.
    Error = "error",
    /// A step was taken.
    Step = "step",
    /// How a command stands that counts no steps.
    Progress = "progress",
    /// Something was measured.
    Measured = "measured",
    /// What a restoration's numbers say of it.
    Verdict = "verdict",
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> String {
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    }

    /// Every kind of event has its line in the table of the guide, and the table names no other.
    #[test]
    fn every_event_is_documented() {
        let guide = text("../../docs/guide/json-events.md");
        let table = guide.split("## Events\n").nth(1).unwrap().split("|---|---|---|\n").nth(1).unwrap();
        let table = table.split("\n\n").next().unwrap();
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name);
        let (mut told, mut known): (Vec<&str>, Vec<&str>) =
            (rows.collect(), Kind::ALL.iter().map(|kind| kind.name()).collect());
        told.sort_unstable();
        known.sort_unstable();
        assert_eq!(told, known);
    }

    /// The engine's events are documented too, by the names they have in JSON.
    #[test]
    fn every_event_of_the_engine_is_documented() {
        let guide = text("../../docs/guide/json-events.md");
        let code = text("../adir/src/engine/event.rs");
        let body = code.split("pub enum Event {").nth(1).unwrap().split("\n}").next().unwrap();
        let variants = body.lines().filter_map(|line| line.strip_prefix("    ")).filter(|line| !line.starts_with(' '));
        let names: Vec<String> = variants
            .filter_map(|line| line.strip_suffix(" {"))
            .map(|name| {
                let snake = |(i, c): (usize, char)| {
                    let gap = if i > 0 && c.is_uppercase() { "_" } else { "" };
                    format!("{gap}{}", c.to_lowercase())
                };
                name.chars().enumerate().map(snake).collect()
            })
            .collect();
        assert!(names.len() >= 8, "{names:?}");
        let table = guide.split("## Events of the library").nth(1).unwrap();
        for name in &names {
            assert!(table.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
