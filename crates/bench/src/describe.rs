//! Answers in words, for reports.

use crate::http::Response;

/// An answer in one line, for reports.
pub(crate) fn describe(answer: &Response<'_>) -> String {
    const SHOWN_MAX: usize = 200;
    let text = String::from_utf8_lossy(answer.body);
    let line: String = text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
    let shown: String = line.chars().take(SHOWN_MAX).collect();
    format!("{} {}", answer.status, shown.trim())
}
