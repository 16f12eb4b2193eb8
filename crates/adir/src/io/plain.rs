//! Texts that hold names of files, for places that would obey what is in them. A name may hold any character but `/`.

use std::borrow::Cow;

/// Whether a terminal, or the direction of writing, would obey that character; the end of a line and a tab aside.
fn is_obeyed(c: char) -> bool {
    let controls = c.is_control() && c != '\n' && c != '\t';
    // Marks, embeddings and isolates of direction, and the ends of lines and paragraphs beside \n.
    controls || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn written_out<'a>(text: &'a str, obeyed: fn(char) -> bool, write: impl Fn(&mut String, char)) -> Cow<'a, str> {
    if !text.contains(obeyed) {
        return text.into();
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if obeyed(c) { write(&mut plain, c) } else { plain.push(c) }
    }
    plain.into()
}

/// `text` with its control characters written out, ends of lines and tabs aside.
pub fn lines(text: &str) -> Cow<'_, str> {
    written_out(text, is_obeyed, |plain, c| plain.extend(c.escape_unicode()))
}

/// `text` with all its control characters written out, so that it stays one line: a name could hold what looks like
/// another message.
pub fn one_line(text: &str) -> Cow<'_, str> {
    written_out(
        text,
        |c| is_obeyed(c) || c.is_control(),
        |plain, c| match c {
            '\n' => plain.push_str("\\n"),
            '\t' => plain.push_str("\\t"),
            c => plain.extend(c.escape_unicode()),
        },
    )
}

/// JSON with the same characters written out as JSON does it: it leaves those beyond ASCII as they are.
pub fn json(text: &str) -> Cow<'_, str> {
    written_out(text, is_obeyed, |plain, c| {
        // None of them is beyond the first plane of Unicode.
        plain.push_str(&format!("\\u{:04x}", u32::from(c)));
    })
}

/// Digits in a row from which a number is shortened: those of the largest whole numbers, and of a hash in hexadecimal,
/// are not.
const MOST_DIGITS: usize = 70;
/// Characters without a blank from which a word is.
const LONGEST_WORD: usize = 400;

/// `text` with its longest numbers and words shortened: what is wrong with a number of 300 digits is seen from the first.
pub fn brief(text: &str) -> Cow<'_, str> {
    let numbers = shortened(text, |c| c.is_ascii_digit(), MOST_DIGITS, [8, 0], "digits");
    match shortened(&numbers, |c| !c.is_whitespace(), LONGEST_WORD, [100, 100], "characters") {
        Cow::Borrowed(_) => numbers,
        Cow::Owned(words) => words.into(),
    }
}

/// `text` with `keep` characters of each end of the runs that are longer than `most`.
fn shortened<'a>(text: &'a str, of: fn(char) -> bool, most: usize, keep: [usize; 2], what: &str) -> Cow<'a, str> {
    let mut short = String::new();
    let mut rest = text;
    // Where what is not yet in `short` begins.
    let mut begun = 0;
    while let Some(start) = rest.find(of) {
        let run = &rest[start..rest[start..].find(|c| !of(c)).map_or(rest.len(), |length| start + length)];
        let after = text.len() - rest.len() + start + run.len();
        let count = run.chars().count();
        if count > most {
            let place = |k: usize| run.char_indices().nth(k).map_or(run.len(), |(place, _)| place);
            let (first, last) = (&run[..place(keep[0])], &run[place(count - keep[1])..]);
            short.push_str(&text[begun..after - run.len()]);
            short.push_str(&format!("{first}[... {} more {what} ...]{last}", count - keep[0] - keep[1]));
            begun = after;
        }
        rest = &text[after..];
    }
    if begun == 0 {
        return text.into();
    }
    short.push_str(&text[begun..]);
    short.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_obeyed_is_written_out() {
        let name = "a\tb\nerror: \u{1b}[31mred\r\u{9b}2J\u{202e}gnp.\u{2028}\u{200f}ĉ é 漢";
        let rest = "error: \\u{1b}[31mred\\u{d}\\u{9b}2J\\u{202e}gnp.\\u{2028}\\u{200f}ĉ é 漢";
        assert_eq!(lines(name), format!("a\tb\n{rest}"));
        assert_eq!(one_line(name), format!("a\\tb\\n{rest}"));
        assert!(matches!(one_line("cat 漢.png"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_stays_json_and_says_the_same() {
        let name = "\u{7f}\u{9b}2J\u{202e}\n\u{1b}é";
        let text = serde_json::to_string(name).unwrap();
        let plain = json(&text);
        assert!(!plain.contains(['\u{7f}', '\u{9b}', '\u{202e}', '\u{1b}', '\n']), "{plain}");
        assert_eq!(serde_json::from_str::<String>(&plain).unwrap(), name);
    }

    #[test]
    fn long_numbers_and_words_are_shortened_and_no_others() {
        let digits = "7".repeat(300);
        assert_eq!(
            brief(&format!("sigma {digits} is too much")),
            "sigma 77777777[... 292 more digits ...] is too much"
        );
        let two = format!("'0.{digits}' and é-{digits}é");
        assert_eq!(brief(&two), "'0.77777777[... 292 more digits ...]' and é-77777777[... 292 more digits ...]é");
        let word = brief(&format!("no {}.png", "é".repeat(1000))).into_owned();
        assert!(
            word.starts_with("no éé") && word.ends_with("éé.png") && word.contains("[... 804 more characters ...]")
        );
        for kept in ["", "no 12", &"0123456789abcdef".repeat(4), &"1".repeat(64)] {
            assert!(matches!(brief(kept), Cow::Borrowed(_)));
        }
    }
}
