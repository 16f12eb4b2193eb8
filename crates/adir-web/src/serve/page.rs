//! The page, which is part of the program.

use axum::extract::Path;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::error::Fault;

macro_rules! files {
    ($($name:literal as $kind:literal),* $(,)?) => {
        /// Names, kinds and contents.
        const FILES: &[(&str, &str, &[u8])] = &[$(($name, $kind, include_bytes!(concat!("../page/", $name)))),*];
    };
}

files! {
    "api.js" as "text/javascript; charset=utf-8",
    "app.css" as "text/css; charset=utf-8",
    "app.js" as "text/javascript; charset=utf-8",
    "dom.js" as "text/javascript; charset=utf-8",
    "editor.js" as "text/javascript; charset=utf-8",
    "icon.svg" as "image/svg+xml",
    "index.html" as "text/html; charset=utf-8",
    "joblist.js" as "text/javascript; charset=utf-8",
    "jobs.js" as "text/javascript; charset=utf-8",
    "jobview.js" as "text/javascript; charset=utf-8",
    "mask.js" as "text/javascript; charset=utf-8",
    "newview.js" as "text/javascript; charset=utf-8",
    "pictures.js" as "text/javascript; charset=utf-8",
    "plan.js" as "text/javascript; charset=utf-8",
    "settings.js" as "text/javascript; charset=utf-8",
    "viewer.js" as "text/javascript; charset=utf-8",
}

/// The page itself.
pub async fn index() -> Result<Response, Fault> {
    file("index.html")
}

/// A file that it loads.
pub async fn part(Path(name): Path<String>) -> Result<Response, Fault> {
    file(&name)
}

fn file(name: &str) -> Result<Response, Fault> {
    let found = FILES.iter().find(|(known, ..)| *known == name);
    let (_, kind, bytes) = found.ok_or_else(|| Fault::not_found("page"))?;
    Ok(([(CONTENT_TYPE, *kind)], *bytes).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every file of the folder is served, and what it names is there.
    #[test]
    fn the_page_is_whole() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/page");
        let mut there: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let mut served: Vec<&str> = FILES.iter().map(|(name, ..)| *name).collect();
        there.sort();
        served.sort_unstable();
        assert_eq!(there, served);
    }
}
