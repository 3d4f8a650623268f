//! The report as Markdown, in the form of an incident report: what the ledger knows is filled in, the
//! rest is left for a person to fill in.

use super::recorded::{PROBE, Plan};
use super::wording::{POINTS, duration, plain};
use super::{Report, Verdict};
use crate::ledger::Status;
use std::fmt::Write;

pub fn markdown(report: &Report) -> String {
    let mut text = format!("# {}\n\n## Summary\n\n", inline(&report.title));
    for sentence in &report.summary {
        let _ = writeln!(text, "{}\n", inline(sentence));
    }
    for fact in &report.facts {
        let shown = match &fact.link {
            Some(link) => format!("[{}](<{link}>)", inline(&fact.text)),
            None => inline(&fact.text),
        };
        let _ = writeln!(text, "- {}: {shown}", fact.label);
    }
    text.push_str("\n## Timeline\n\n");
    for moment in &report.moments {
        let time: String = moment.at.to_string().chars().skip(11).take(8).collect();
        let _ = writeln!(text, "- **{time} UTC**: {}", inline(&moment.text));
    }
    phases(&mut text, report);
    flips(&mut text, report);
    for gate in &report.recorded.gates {
        let _ = writeln!(text, "\n## Probes in phase {}\n", inline(&gate.phase));
        if let Some(count) = &gate.count {
            let _ = writeln!(text, "{count}\n");
        }
        let rows = gate.probes.iter().map(|probe| {
            std::iter::once(probe.word().to_owned()).chain(probe.row.iter().cloned()).collect()
        });
        let heads: Vec<&str> = std::iter::once("").chain(PROBE.iter().copied()).collect();
        table(&mut text, &heads, rows);
    }
    for plan in &report.recorded.plans {
        planned(&mut text, plan);
    }
    if !report.points.is_empty() {
        text.push_str("\n## Restore points\n\n");
        table(&mut text, POINTS, report.points.iter().cloned());
    }
    causes(&mut text, report);
    if !report.recorded.other.is_empty() {
        text.push_str("\n## Also recorded\n\n");
        for (phase, key, value) in &report.recorded.other {
            let _ = writeln!(text, "- {} / {}: {}", inline(phase), inline(key), inline(value));
        }
    }
    text
}

fn phases(text: &mut String, report: &Report) {
    if report.bars.is_empty() {
        return;
    }
    text.push_str("\n## Phases\n\n");
    let rows = report.bars.iter().map(|bar| {
        let status = bar.status.map_or("never ended", Status::word);
        vec![bar.phase.clone(), status.to_owned(), duration(bar.to - bar.from)]
    });
    table(text, &["Phase", "Status", "Duration"], rows);
}

fn flips(text: &mut String, report: &Report) {
    for flip in &report.recorded.flips {
        let _ = writeln!(text, "\n## The flip in phase {}\n", inline(&flip.phase));
        for (label, number) in &flip.numbers {
            let _ = writeln!(text, "- {label}: {}", inline(number));
        }
        for (stage, _, took) in &flip.stages {
            let _ = writeln!(text, "- {} took {}", inline(stage), inline(took));
        }
        let reverted = if flip.reverted { "yes" } else { "no" };
        let _ = writeln!(text, "- Taken back: {reverted}");
    }
}

fn planned(text: &mut String, plan: &Plan) {
    let _ = writeln!(text, "\n## Plan and loss of phase {}\n", inline(&plan.phase));
    for (number, step) in plan.steps.iter().enumerate() {
        let _ = writeln!(text, "{}. {}", number + 1, inline(step));
    }
    if !plan.steps.is_empty() {
        text.push('\n');
    }
    for loss in &plan.losses {
        let _ = writeln!(text, "- Destroys: {}", inline(loss));
    }
    if plan.losses.is_empty() {
        text.push_str("- Destroys nothing.\n");
    }
    if !plan.undo.is_empty() {
        let _ = writeln!(text, "- Undo: {}", inline(&plan.undo));
    }
}

fn causes(text: &mut String, report: &Report) {
    if report.failed() {
        text.push_str("\n## Root Cause\n\n[Why the deployment failed]\n");
    }
    for said in &report.recorded.said {
        let _ = writeln!(text, "\nWhat phase {} said:\n", inline(&said.phase));
        let message = said.message.as_deref().map(|message| ("Message", message));
        let lines = said.lines.iter().map(|(label, line)| (*label, line.as_str()));
        for (label, line) in message.into_iter().chain(lines) {
            let _ = writeln!(text, "{label}:\n\n{}", block(line));
        }
    }
    if !report.resolution.is_empty() {
        text.push_str("\n## Resolution\n");
        for sentence in &report.resolution {
            let _ = writeln!(text, "\n{}", inline(sentence));
        }
    }
    if !report.failed() {
        return;
    }
    let severity = match report.verdict {
        Verdict::Reverted => "failed and was rolled back",
        Verdict::Open => "is still open",
        _ => "failed and was not rolled back by itself",
    };
    let _ = write!(
        text,
        "\n## Prevention\n\n[What keeps this from happening again]\n\n## Follow-Up Actions\n\n\
         - [ ] Investigate the root cause\n- [ ] Fix it\n- [ ] Test in staging\n- [ ] Deploy again with the fix\n\n\
         ## Severity Level\n\n[P1 to P4] - the deploy {severity}\n\n## Assigned To\n\n[Engineer]\n\n\
         ## Approval\n\nRelease Manager: ________________  Date: __________\n"
    );
}

fn table(text: &mut String, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let _ = writeln!(text, "| {} |", heads.join(" | "));
    let _ = writeln!(text, "|{}", "---|".repeat(heads.len()));
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| inline(cell)).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
}

/// Escapes text within a line.
fn inline(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut shown = String::new();
    for c in plain(&words.join(" ")).chars() {
        match c {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '\\' | '`' | '*' | '[' | ']' | '#' | '|' | '~' | '$' => {
                shown.push('\\');
                shown.push(c);
            }
            // Within a word an underscore is no markup, and it is frequent in names.
            '_' if !shown.ends_with(|c: char| c.is_ascii_alphanumeric()) => shown.push_str("\\_"),
            c => shown.push(c),
        }
    }
    shown
}

/// Makes a code block by indentation, since the text could contain the end of a fenced one.
fn block(text: &str) -> String {
    plain(text).lines().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_markup() {
        assert_eq!(inline("<b>*x*</b>"), "&lt;b&gt;\\*x\\*&lt;/b&gt;");
        assert_eq!(inline("a\n# b | [c](d)"), "a \\# b \\| \\[c\\](d)");
        assert_eq!(inline("pre_deploy _x_ \u{7}"), "pre_deploy \\_x_ \u{fffd}");
        assert_eq!(block("```\n</pre>"), "    ```\n    </pre>\n");
    }
}
