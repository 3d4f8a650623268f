//! The report as one page of HTML that needs nothing else: no script, no font, no picture.
//!
//! Invariant: every text goes through `put`, which escapes it, and a policy in the page forbids
//! whatever is not in it, down to the hash of its one style sheet.

use super::recorded::{Flip, Gate, PROBE};
use super::wording::{POINTS, duration, plain};
use super::{Bar, Report, Verdict};
use crate::ledger::Status;
use sha2::{Digest, Sha256};
use std::fmt::Write;

const STYLE: &str = include_str!("style.css");
/// Width of the drawing of the bars.
const WIDTH: f64 = 1000.0;

pub fn html(report: &Report) -> String {
    let mut page = Page(String::with_capacity(16 << 10));
    page.head(report);
    page.header(report);
    page.raw("<main>");
    page.bars(report);
    for flip in &report.recorded.flips {
        page.flip(flip);
    }
    for gate in &report.recorded.gates {
        page.gate(gate);
    }
    page.plans(report);
    page.points(report);
    page.moments(report);
    page.said(report);
    page.other(report);
    page.raw("</main></body></html>\n");
    page.0
}

struct Page(String);

impl Page {
    /// Appends our own markup.
    fn raw(&mut self, markup: &str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Appends text, escaped.
    fn put(&mut self, text: &str) -> &mut Self {
        for c in plain(text).chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        self
    }

    fn tag(&mut self, open: &str, text: &str) -> &mut Self {
        let name = open.split(' ').next().unwrap_or(open);
        let _ = write!(self.0, "<{open}>");
        self.put(text);
        let _ = write!(self.0, "</{name}>");
        self
    }

    fn head(&mut self, report: &Report) {
        let hash = host::base64(&Sha256::digest(STYLE.as_bytes()));
        let _ = write!(
            self.0,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
             style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"referrer\" content=\"no-referrer\">\
             <meta name=\"color-scheme\" content=\"light dark\">"
        );
        self.tag("title", &report.title);
        let _ = write!(self.0, "<style>{STYLE}</style></head><body>");
    }

    fn header(&mut self, report: &Report) {
        self.raw("<header><div class=\"line\">").tag("h1", &report.title);
        let badge = format!("span class=\"badge {}\"", class(report.verdict));
        self.tag(&badge, report.badge).raw("</div>");
        for sentence in &report.summary {
            self.tag("p", sentence);
        }
        self.raw("<dl class=\"facts\">");
        for fact in &report.facts {
            self.raw("<div>").tag("dt", fact.label).raw("<dd>");
            match &fact.link {
                Some(link) => {
                    self.raw("<a rel=\"noopener noreferrer\" href=\"").put(link).raw("\">");
                    self.put(&fact.text).raw("</a>");
                }
                None => {
                    self.put(&fact.text);
                }
            }
            self.raw("</dd></div>");
        }
        self.raw("</dl></header>");
    }

    fn bars(&mut self, report: &Report) {
        if report.bars.is_empty() {
            return;
        }
        let span = report.bars.iter().map(|bar| bar.to).max().unwrap_or(0).max(report.span).max(1);
        self.raw("<section>").tag("h2", "Phases").raw("<div class=\"bars\">");
        for bar in &report.bars {
            self.bar(bar, span);
        }
        self.raw("<div class=\"row axis\"><span></span><span class=\"ends\">");
        self.tag("span", "0 s").tag("span", &duration(span)).raw("</span><span></span></div>");
        self.raw("</div></section>");
    }

    fn bar(&mut self, bar: &Bar, span: i64) {
        let (color, status) = match bar.status {
            Some(Status::Failed) => ("bad", "failed"),
            Some(_) => ("good", "done"),
            None => ("open", "never ended"),
        };
        let took = duration(bar.to - bar.from);
        self.raw("<div class=\"row\">").tag("span class=\"name\"", &bar.phase);
        let place = |seconds: i64| seconds as f64 / span as f64 * WIDTH;
        self.drawn(color, place(bar.from), place(bar.to - bar.from));
        self.tag("span class=\"took\"", &format!("{took}, {status}")).raw("</div>");
    }

    /// Draws one bar, which is visible even when it took no time.
    fn drawn(&mut self, color: &str, from: f64, long: f64) {
        let long = long.max(4.0);
        let from = from.min(WIDTH - long).max(0.0);
        let _ = write!(
            self.0,
            "<svg class=\"bar\" viewBox=\"0 0 {WIDTH} 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <rect class=\"paper\" width=\"{WIDTH}\" height=\"10\"/>\
             <rect class=\"{color}\" x=\"{from:.1}\" width=\"{long:.1}\" height=\"10\"/></svg>"
        );
    }

    fn flip(&mut self, flip: &Flip) {
        self.raw("<section><h2>The flip in phase ").put(&flip.phase).raw("</h2>");
        if flip.reverted {
            self.tag("p class=\"note bad\"", "It was taken back: the old colour is active again.");
        }
        self.raw("<div class=\"tiles\">");
        for (label, number) in &flip.numbers {
            let bad = *label == "Failed" && number != "0";
            self.raw(if bad { "<div class=\"tile bad\">" } else { "<div class=\"tile\">" });
            self.tag("b", number).tag("span", label).raw("</div>");
        }
        self.raw("</div>");
        if let Some((requests, failed)) = flip.requests.filter(|(requests, _)| *requests > 0) {
            let lost = (failed as f64 / requests as f64 * WIDTH).min(WIDTH);
            self.raw("<div class=\"bars\"><div class=\"row\">");
            self.tag("span class=\"name\"", "failed requests");
            if failed > 0 {
                self.drawn("bad", 0.0, lost);
            } else {
                self.drawn("none", 0.0, 0.0);
            }
            self.tag("span class=\"took\"", &format!("{failed} of {requests}")).raw("</div></div>");
        }
        let whole: f64 = flip.stages.iter().map(|(_, took, _)| took).sum::<f64>().max(0.001);
        let mut from = 0.0;
        self.raw("<div class=\"bars\">");
        for (stage, took, said) in &flip.stages {
            self.raw("<div class=\"row\">").tag("span class=\"name\"", stage);
            let color = if stage == "back" { "back" } else { "good" };
            self.drawn(color, from / whole * WIDTH, took / whole * WIDTH);
            self.tag("span class=\"took\"", said).raw("</div>");
            from += took;
        }
        self.raw("</div></section>");
    }

    fn gate(&mut self, gate: &Gate) {
        self.raw("<section><h2>Probes in phase ").put(&gate.phase).raw("</h2>");
        if let Some(count) = &gate.count {
            self.tag("p class=\"note\"", count);
        }
        let heads: Vec<&str> = std::iter::once("").chain(PROBE.iter().copied()).collect();
        self.table(&heads, |page| {
            for probe in &gate.probes {
                let color = match probe.ok {
                    Some(true) => "good",
                    Some(false) => "bad",
                    None => "open",
                };
                page.raw("<tr><td>");
                page.tag(&format!("span class=\"badge {color}\""), probe.word()).raw("</td>");
                page.cells(&probe.row);
                page.raw("</tr>");
            }
        });
        self.raw("</section>");
    }

    fn plans(&mut self, report: &Report) {
        for plan in &report.recorded.plans {
            self.raw("<section><h2>Plan and loss of phase ").put(&plan.phase).raw("</h2><ol>");
            for step in &plan.steps {
                self.tag("li", step);
            }
            self.raw("</ol>");
            match plan.losses.as_slice() {
                [] => self.tag("p class=\"note\"", "It destroys nothing."),
                losses => {
                    self.raw("<ul class=\"loss\">");
                    for loss in losses {
                        self.raw("<li>Destroys: ").put(loss).raw("</li>");
                    }
                    self.raw("</ul>")
                }
            };
            if !plan.undo.is_empty() {
                self.raw("<p>Undo: ").put(&plan.undo).raw("</p>");
            }
            self.raw("</section>");
        }
    }

    fn points(&mut self, report: &Report) {
        if report.points.is_empty() {
            return;
        }
        self.raw("<section>").tag("h2", "Restore points");
        self.table(POINTS, |page| {
            for row in &report.points {
                page.raw("<tr>").cells(row);
                page.raw("</tr>");
            }
        });
        self.raw("</section>");
    }

    fn moments(&mut self, report: &Report) {
        self.raw("<section>").tag("h2", "Timeline").raw("<ol class=\"moments\">");
        for moment in &report.moments {
            let color = moment.verdict.map_or("", class);
            let _ = write!(self.0, "<li class=\"{color}\">");
            let time: String = moment.at.to_string().chars().skip(11).take(8).collect();
            self.tag("time", &format!("{time} UTC")).raw("<span>").put(&moment.text);
            self.raw("</span></li>");
        }
        self.raw("</ol></section>");
    }

    fn said(&mut self, report: &Report) {
        if !report.resolution.is_empty() {
            self.raw("<section>").tag("h2", "Resolution");
            for sentence in &report.resolution {
                self.tag("p", sentence);
            }
            self.raw("</section>");
        }
        for said in &report.recorded.said {
            self.raw("<section><h2>What phase ").put(&said.phase).raw(" said</h2>");
            if let Some(message) = &said.message {
                self.tag("p class=\"note bad\"", message);
            }
            for (label, line) in &said.lines {
                self.tag("h3", label).tag("pre", line);
            }
            self.raw("</section>");
        }
    }

    fn other(&mut self, report: &Report) {
        if report.recorded.other.is_empty() {
            return;
        }
        self.raw("<section>").tag("h2", "Also recorded");
        self.table(&["Phase", "What", "Value"], |page| {
            for (phase, key, value) in &report.recorded.other {
                page.raw("<tr>").cells(&[phase.clone(), key.clone(), value.clone()]);
                page.raw("</tr>");
            }
        });
        self.raw("</section>");
    }

    fn table(&mut self, heads: &[&str], rows: impl FnOnce(&mut Page)) {
        self.raw("<div class=\"scroll\"><table><thead><tr>");
        for head in heads {
            self.tag("th", head);
        }
        self.raw("</tr></thead><tbody>");
        rows(self);
        self.raw("</tbody></table></div>");
    }

    fn cells(&mut self, row: &[String]) {
        for cell in row {
            self.tag("td", cell);
        }
    }
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "good",
        Verdict::Reverted => "back",
        Verdict::Bad => "bad",
        Verdict::Open => "open",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_markup() {
        let mut page = Page(String::new());
        page.tag("li class=\"x\"", "<script>\"'&\u{0}");
        assert_eq!(page.0, "<li class=\"x\">&lt;script&gt;&quot;&#39;&amp;\u{fffd}</li>");
    }
}
