//! CLIP's tokenizer: byte-pair encoding over lower-case text.
//!
//! The published merges are part of the program: OpenAI's, open_clip's and transformers' models of these
//! sizes all use them unchanged. Text is brought to Unicode's composed form, its white space to single
//! spaces; OpenAI's repair of wrongly decoded text and of HTML entities is left out, as in transformers.
//! open_clip and transformers differ in two things: the Greek sigma that ends a word, and marks inside a text.

use std::collections::{BTreeMap, HashMap};

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Endings that are tokens' beginnings wherever an apostrophe stands.
const CONTRACTIONS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];

/// The marks for start and end of a text, in the order of their tokens.
const MARKS: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

/// A vocabulary and its merges.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    /// Token of a byte inside a word; 256 more where it ends a word.
    byte_tokens: [u32; 256],
    /// The token that two neighbours merge to. Lower tokens merge first: ids follow the merges' order.
    merges: HashMap<(u32, u32), u32>,
    size: u32,
}

impl Tokenizer {
    /// The vocabulary of the published models, 49,408 tokens.
    pub fn published() -> Self {
        Self::from_merges(adir_assets::CLIP_MERGES)
    }

    /// A vocabulary from its merges: two tokens a line, `</w>` marking a word's end. A line whose tokens are
    /// not yet known adds a token that nothing merges to.
    fn from_merges(merges: &str) -> Self {
        let alphabet = byte_alphabet();
        let mut byte_tokens = [0; 256];
        let mut ids = HashMap::new();
        for (id, &(byte, letter)) in alphabet.iter().enumerate() {
            byte_tokens[usize::from(byte)] = id as u32;
            ids.insert(letter.to_string(), id as u32);
            ids.insert(format!("{letter}</w>"), id as u32 + 256);
        }
        let mut pairs = HashMap::new();
        let mut size = 512;
        for line in merges.lines() {
            let (left, right) = line.split_once(' ').unwrap_or((line, ""));
            if let (Some(&a), Some(&b)) = (ids.get(left), ids.get(right)) {
                pairs.entry((a, b)).or_insert(size);
            }
            ids.insert(format!("{left}{right}"), size);
            size += 1;
        }
        Self { byte_tokens, merges: pairs, size: size + 2 }
    }

    /// The published merges, a line each, as far as they are used.
    pub fn merges_text() -> &'static str {
        adir_assets::CLIP_MERGES
    }

    /// The text of every token, with its number, as `vocab.json` of transformers has them.
    pub fn vocabulary() -> BTreeMap<String, u32> {
        let letters: Vec<char> = byte_alphabet().into_iter().map(|(_, letter)| letter).collect();
        let single = letters.iter().map(char::to_string).chain(letters.iter().map(|letter| format!("{letter}</w>")));
        let merged = Self::merges_text().lines().map(|line| line.split(' ').collect::<String>());
        let marks = MARKS.map(String::from);
        single.chain(merged).chain(marks).zip(0..).collect()
    }

    /// The number of tokens.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// The tokens of `text` between the marks for its start and its end, at most `context` in all: what is
    /// over is cut off before the end mark. A mark inside the text is text. As open_clip.
    pub fn encode(&self, text: &str, context: usize) -> Vec<u32> {
        let clean = text.nfc().collect::<String>().to_lowercase();
        let words = clean.split_whitespace().flat_map(|word| pieces(word, &[]));
        self.between_marks(words.flat_map(|piece| self.word(piece)), context)
    }

    /// The same as transformers: the marks `<|startoftext|>` and `<|endoftext|>` inside a text are the tokens that they
    /// name, and letters are made small without regard to their place in a word.
    pub fn encode_prompt(&self, text: &str, context: usize) -> Vec<u32> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let next =
                MARKS.iter().zip(self.size - 2..).filter_map(|(mark, id)| Some((rest.find(mark)?, mark, id))).min();
            let (stretch, after) = next.map_or((rest, ""), |(at, mark, _)| (&rest[..at], &rest[at + mark.len()..]));
            let clean: String = stretch.nfc().flat_map(char::to_lowercase).collect();
            // What has become a mark only now is text, but split off as a mark.
            let words = clean.split_whitespace().flat_map(|word| pieces(word, &MARKS));
            tokens.extend(words.flat_map(|piece| pieces(piece, &[])).flat_map(|piece| self.word(piece)));
            tokens.extend(next.map(|(.., id)| id));
            rest = after;
        }
        self.between_marks(tokens, context)
    }

    fn between_marks(&self, inner: impl IntoIterator<Item = u32>, context: usize) -> Vec<u32> {
        let (start, end) = (self.size - 2, self.size - 1);
        let mut tokens: Vec<u32> = std::iter::once(start).chain(inner).take(context.saturating_sub(1)).collect();
        tokens.push(end);
        tokens
    }

    /// The tokens of one piece: always merge the pair that was learnt first, everywhere it stands.
    fn word(&self, word: &str) -> Vec<u32> {
        let mut tokens: Vec<u32> = word.bytes().map(|byte| self.byte_tokens[usize::from(byte)]).collect();
        if let Some(last) = tokens.last_mut() {
            *last += 256;
        }
        while let Some(merged) = tokens.windows(2).filter_map(|w| self.merges.get(&(w[0], w[1])).copied()).min() {
            let mut shorter = Vec::with_capacity(tokens.len());
            let mut rest = tokens.as_slice();
            while let Some((&first, after)) = rest.split_first() {
                let joins = after.first().is_some_and(|&second| self.merges.get(&(first, second)) == Some(&merged));
                shorter.push(if joins { merged } else { first });
                rest = &after[usize::from(joins)..];
            }
            tokens = shorter;
        }
        tokens
    }
}

/// A printable character for every byte, in the order of token ids: printable Latin-1 first, then the
/// others, which borrow the characters from U+0100 on.
fn byte_alphabet() -> Vec<(u8, char)> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let own = (0..=255).filter(printable).map(|byte| (byte, char::from(byte)));
    let borrowed = (0..=255).filter(|byte| !printable(byte)).zip('\u{100}'..);
    own.chain(borrowed).collect()
}

/// What a stretch of a piece is made of.
#[derive(Clone, Copy, PartialEq)]
enum Class {
    Letter,
    Number,
    Other,
}

fn class(c: char) -> Class {
    match c.general_category_group() {
        GeneralCategoryGroup::Letter => Class::Letter,
        GeneralCategoryGroup::Number => Class::Number,
        _ => Class::Other,
    }
}

/// Splits text without white space into `whole` words, contractions, runs of letters, single digits and runs of the rest.
fn pieces<'a>(text: &'a str, whole: &'static [&'static str]) -> impl Iterator<Item = &'a str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = class(rest.chars().next()?);
        let known = whole.iter().chain(&CONTRACTIONS).find(|known| rest.starts_with(**known));
        let length = known.map(|known| known.len()).unwrap_or_else(|| {
            let run = if first == Class::Number { 1 } else { usize::MAX };
            rest.chars().take(run).take_while(|&c| class(c) == first).map(char::len_utf8).sum()
        });
        let (piece, after) = rest.split_at(length);
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_in_order_of_rank_everywhere() {
        // Tokens 512 "ab", 513 "ab</w>", 514 "abab</w>", 515 "bc".
        let tokenizer = Tokenizer::from_merges("a b\na b</w>\nab ab</w>\nb c\n");
        assert_eq!(tokenizer.size(), 518);
        let (a, b, c) = (64, 65, 66);
        assert_eq!(tokenizer.word("ab"), [513]);
        assert_eq!(tokenizer.word("abab"), [514]);
        assert_eq!(tokenizer.word("ababab"), [512, 514]);
        assert_eq!(tokenizer.word("abc"), [512, c + 256], "the earlier merge wins");
        assert_eq!(tokenizer.word("bca"), [515, a + 256]);
        assert_eq!(tokenizer.word("aba"), [512, a + 256]);
        assert_eq!(tokenizer.word("b"), [b + 256]);
        assert_eq!(tokenizer.encode("AB  ab", 77), [516, 513, 513, 517]);
        assert_eq!(tokenizer.encode("ab ab ab", 3), [516, 513, 517]);
        assert_eq!(tokenizer.encode("", 77), [516, 517]);
    }

    #[test]
    fn text_is_split_as_published() {
        let split = |text: &'static str| pieces(text, &[]).collect::<Vec<_>>();
        assert_eq!(split("it's"), ["it", "'s"]);
        assert_eq!(split("we'llx42!?"), ["we", "'ll", "x", "4", "2", "!?"]);
        assert_eq!(split("!'s"), ["!'", "s"]);
        assert_eq!(split("naïve_café"), ["naïve", "_", "café"]);
    }

    // from open_clip.tokenizer import SimpleTokenizer   # open_clip_torch 3.3.0
    // tokenizer = SimpleTokenizer()
    // for text in TEXTS: print(tokenizer.encode(text))
    #[test]
    fn published_vocabulary_gives_the_published_tokens() {
        let tokenizer = Tokenizer::published();
        assert_eq!(tokenizer.size(), 49408);
        let prompts: &[(&str, &[u32])] = &include!("prompts.in");
        for (text, expected) in prompts {
            let tokens = tokenizer.encode(text, 1000);
            assert_eq!((tokens[0], tokens[tokens.len() - 1]), (49406, 49407));
            assert_eq!(&tokens[1..tokens.len() - 1], *expected, "{text:?}");
        }
    }
}
