//! Notes and warnings with `--json`: one object a line on stderr, as errors are.

use serde::Serialize;
use std::fmt::{self, Debug, Write as _};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

#[derive(Serialize)]
struct Line {
    log: Log,
}

#[derive(Serialize)]
struct Log {
    level: String,
    message: String,
}

/// The form of a line.
pub struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = Text(String::new());
        event.record(&mut text);
        let level = event.metadata().level().to_string().to_lowercase();
        let line = Line { log: Log { level, message: text.0 } };
        writeln!(writer, "{}", super::json::text(&line))
    }
}

/// The message, and behind it what else there is.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        let written = if field.name() == "message" {
            let rest = std::mem::take(&mut self.0);
            write!(self.0, "{value:?}{space}{rest}")
        } else {
            write!(self.0, "{space}{}={value:?}", field.name())
        };
        debug_assert!(written.is_ok());
    }
}
