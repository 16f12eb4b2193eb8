//! Kernels written as text, by people and by other programs.

/// Rows of numbers, of equal length.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// Row by row, height * width of them, finite.
    pub values: Vec<f64>,
    /// Number of rows, at least 1.
    pub height: usize,
    /// Number of columns, at least 1.
    pub width: usize,
}

/// What stands between the numbers of a file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Between {
    /// Blanks and commas; points in numbers.
    Plain,
    /// Semicolons; commas or points in numbers.
    Semicolons,
}

/// Reads rows of numbers, one a line, separated by blanks, tabs or commas, or by semicolons; then a comma may be the
/// decimal sign. Empty lines, what follows a `#` or `%`, and a byte order mark are skipped.
///
/// # Errors
/// In words, naming the line: a number that cannot be read or is not finite, rows of different lengths, no rows, and
/// commas that seem to be decimal signs.
pub fn read_rows(text: &str) -> Result<Rows, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().map(|line| line.split(['#', '%']).next().unwrap_or_default().trim());
    let lines: Vec<(usize, &str)> = lines.enumerate().map(|(i, l)| (i + 1, l)).filter(|(_, l)| !l.is_empty()).collect();
    let between = if lines.iter().any(|(_, line)| line.contains(';')) { Between::Semicolons } else { Between::Plain };
    if between == Between::Plain {
        refuse_decimal_commas(&lines)?;
    }
    let mut rows = Rows { values: Vec::new(), height: 0, width: 0 };
    for (number, line) in &lines {
        let before = rows.values.len();
        match between {
            Between::Plain => {
                for word in line.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty()) {
                    rows.values.push(finite(word, number)?);
                }
            }
            Between::Semicolons => {
                for word in line.strip_suffix(';').unwrap_or(line).split(';') {
                    rows.values.push(finite(&word.trim().replacen(',', ".", 1), number)?);
                }
            }
        }
        let width = rows.values.len() - before;
        if rows.height > 0 && width != rows.width {
            return Err(format!("line {number}: {width} numbers, but the rows before have {}", rows.width));
        }
        rows.width = width;
        rows.height += 1;
    }
    if rows.values.is_empty() {
        return Err("contains no numbers".to_owned());
    }
    Ok(rows)
}

fn finite(word: &str, line: &usize) -> Result<f64, String> {
    let value = word.parse::<f64>().ok().filter(|value| value.is_finite());
    value.ok_or_else(|| {
        let (start, more) = word.char_indices().nth(24).map_or((word, ""), |(end, _)| (&word[..end], "..."));
        format!("line {line}: {start:?}{more} is not a finite number")
    })
}

/// Refuses commas that seem to be decimal signs: where blanks stand between numbers as well, or where every second
/// number of a row is what only follows a decimal sign.
fn refuse_decimal_commas(lines: &[(usize, &str)]) -> Result<(), String> {
    let hint = "if the commas are decimal signs, write points, or semicolons between the numbers";
    for (number, line) in lines {
        // A comma with a blank beside it, as in "1, 2", separates.
        let tight = line.split_whitespace().any(|word| word.trim_matches(',').contains(','));
        let apart = line.split_whitespace().collect::<Vec<_>>();
        let blanks = apart.windows(2).any(|pair| !pair[0].ends_with(',') && !pair[1].starts_with(','));
        if tight && blanks {
            return Err(format!("line {number} has both commas and blanks between numbers; {hint}"));
        }
    }
    let tight: Vec<(usize, Vec<&str>)> =
        lines.iter().map(|(number, line)| (*number, line.split(',').collect::<Vec<_>>())).collect();
    let pairs = tight.iter().all(|(_, words)| words.len() % 2 == 0)
        && tight.iter().flat_map(|(_, words)| words).all(|word| word.chars().all(|c| c.is_ascii_digit() || c == '-'));
    if !tight.is_empty() && pairs {
        let whole = tight.iter().flat_map(|(_, words)| words.iter().step_by(2));
        let mut parts = tight.iter().flat_map(|(_, words)| words.iter().skip(1).step_by(2));
        let leading_zero = |word: &&str| word.len() > 1 && word.starts_with('0');
        let all_zero = whole.clone().all(|word| matches!(*word, "0" | "-0" | ""));
        if all_zero || parts.any(leading_zero) {
            return Err(format!("line {}: every second number looks like the end of a decimal; {hint}", tight[0].0));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> (usize, usize, Vec<f64>) {
        let Rows { values, height, width } = read_rows(text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        (height, width, values)
    }

    #[test]
    fn numbers_are_read_however_programs_write_them() {
        let row = (1, 3, vec![0.25, 0.5, 0.25]);
        for text in [
            "0.25 0.5 0.25",
            "0.25,0.5,0.25\r\n",
            "0.25, 0.5, 0.25",
            "0.25\t0.5\t0.25\n\n",
            "# psf\n# from numpy.savetxt\n2.500000000000000000e-01 5.000000000000000000e-01 2.500000000000000000e-01\n",
            "% MATLAB\n.25 .5 .25 % a row",
            "\u{feff}0.25,0.5,0.25\r\n",
            "\u{feff}0,25;0,5;0,25\r\n",
            "0.25;0.5;0.25;",
            "0,25 ; 0,5 ; 0,25",
        ] {
            assert_eq!(rows(text), row, "{text:?}");
        }
        assert_eq!(
            rows("0, 1, 0\n1\t4 1  # middle\n\n0 1 0\n"),
            (3, 3, vec![0.0, 1.0, 0.0, 1.0, 4.0, 1.0, 0.0, 1.0, 0.0])
        );
        // Six whole numbers, and a column beside a column of zeros with a sign of what they are.
        assert_eq!(rows("1,2,1,4,1,2"), (1, 6, vec![1.0, 2.0, 1.0, 4.0, 1.0, 2.0]));
        assert_eq!(rows("0.0,25\n0.0,5"), (2, 2, vec![0.0, 25.0, 0.0, 5.0]));
        assert_eq!(rows("0,1,0\n1,4,1\n0,1,0"), (3, 3, vec![0.0, 1.0, 0.0, 1.0, 4.0, 1.0, 0.0, 1.0, 0.0]));
        assert_eq!(rows("10,20\n30,40"), (2, 2, vec![10.0, 20.0, 30.0, 40.0]));
    }

    #[test]
    fn decimal_commas_are_not_taken_for_separators() {
        for (text, part) in [
            ("0,25 0,5 0,25", "both commas and blanks"),
            ("0,25\t0,5\t0,25", "both commas and blanks"),
            ("1 2 3\n0,25 0,5 0,25", "line 2 has both"),
            ("0,25\n0,5\n0,25", "every second number"),
            ("0,25,0,5,0,25", "every second number"),
            ("1,0625\n2,125", "every second number"),
        ] {
            let message = read_rows(text).unwrap_err();
            assert!(message.contains(part) && message.contains("write points"), "{text:?}: {message}");
        }
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        for (text, part) in [
            ("1 2\n3", "line 2: 1 numbers, but the rows before have 2"),
            ("1 2\n3 x", "line 2: \"x\""),
            ("1 nan", "\"nan\""),
            ("1;2 3;4", "\"2 3\""),
            ("1;;2", "\"\""),
            ("# nothing\n", "no numbers"),
            ("", "no numbers"),
        ] {
            let message = read_rows(text).unwrap_err();
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }
}
