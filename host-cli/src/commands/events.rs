//! Verb `capsid events`.

use std::time::Duration;

use anyhow::bail;
use serde_json::Value;

use super::filter;
use crate::app::Context;
use crate::cli::EventsArgs;
use crate::clock;
use crate::events::EventReader;
use crate::format::Template;
use crate::output;

/// Interval of checking for new events: short for a user, and negligible for the processor.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Prints events as they happen, and past ones since a time, until a time or forever.
pub(crate) fn run(context: Context, args: &EventsArgs) -> anyhow::Result<u8> {
    let filters = args
        .filter
        .iter()
        .map(|text| Filter::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    let format = match (&args.format, args.json) {
        (Some(text), _) => Some(Template::of_lines(text)?),
        (None, true) => Some(Template::of_lines("json")?),
        (None, false) => None,
    };
    let until = args.until.as_deref().map(clock::moment).transpose()?;
    let since = args.since.as_deref().map(clock::moment).transpose()?;
    // As in docker: without --since only new events; with --until alone, all past ones.
    let since = since.unwrap_or_else(|| if until.is_some() { i64::MIN } else { clock::now_ns() });
    let folders = context.folders()?;
    let mut reader = EventReader::open(&folders.data);
    loop {
        // Checked before the events are read: none that happened until then is missed.
        let is_over = until.is_some_and(|until| clock::now_ns() > until);
        for event in reader.more()? {
            let at = event["timeNano"].as_i64().unwrap_or(0);
            let is_wanted = at >= since && until.is_none_or(|until| at <= until);
            if is_wanted && passes(&filters, &event) {
                match &format {
                    Some(template) => output::rendered(&template.render(&event)?),
                    None => println!("{}", output::line(&line(&event))),
                }
            }
        }
        if is_over || output::has_failed() {
            return Ok(0);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or_default()
}

/// Formats docker's line: time, type, action, id and attributes.
fn line(event: &Value) -> String {
    let attributes: Vec<String> = event["Actor"]["Attributes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    format!(
        "{} {} {} {} ({})",
        clock::rfc3339(event["timeNano"].as_i64().unwrap_or(0)),
        text(event, "Type"),
        text(event, "Action"),
        text(&event["Actor"], "ID"),
        attributes.join(", ")
    )
}

/// Filter of one `--filter` flag.
#[derive(Debug, PartialEq)]
struct Filter {
    kind: FilterKind,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum FilterKind {
    Container,
    Event,
    Image,
    Label,
    Network,
    Type,
}

impl Filter {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (name, value) = filter::halves(text)?;
        let kind = match name {
            "container" => FilterKind::Container,
            "event" => FilterKind::Event,
            "image" => FilterKind::Image,
            "label" => FilterKind::Label,
            "network" => FilterKind::Network,
            "type" => FilterKind::Type,
            other => bail!("there is no filter {other:?}: use container, event, image, label, network or type"),
        };
        Ok(Self {
            kind,
            value: value.into(),
        })
    }

    fn takes(&self, event: &Value) -> bool {
        let attributes = &event["Actor"]["Attributes"];
        let value = self.value.as_str();
        match self.kind {
            FilterKind::Container => {
                let is_its = |id: &str| !value.is_empty() && id.starts_with(value);
                match text(event, "Type") {
                    "network" => is_its(text(attributes, "container")),
                    _ => text(attributes, "name") == value || is_its(text(event, "id")),
                }
            }
            FilterKind::Network if text(event, "Type") == "network" => {
                let id = text(&event["Actor"], "ID");
                text(attributes, "name") == value || (!value.is_empty() && id.starts_with(value))
            }
            FilterKind::Network => false,
            // `exec_create: sh` and `health_status: healthy` are also matched by their first word.
            FilterKind::Event => {
                let action = text(event, "Action");
                action == value || action.split(':').next() == Some(value)
            }
            FilterKind::Image => {
                let image = text(event, "from");
                image == value || image.split(':').next() == Some(value)
            }
            FilterKind::Label => match value.split_once('=') {
                Some((name, wanted)) => attributes[name].as_str() == Some(wanted),
                None => attributes.get(value).is_some(),
            },
            FilterKind::Type => text(event, "Type") == value,
        }
    }
}

/// Whether an event passes: it must match one filter of each given kind, and all filters of labels.
fn passes(filters: &[Filter], event: &Value) -> bool {
    filters.iter().all(|filter| {
        let mut alternatives = filters.iter().filter(|other| other.kind == filter.kind);
        match filter.kind {
            FilterKind::Label => filter.takes(event),
            _ => alternatives.any(|other| other.takes(event)),
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn filters_choose_as_dockers_do() {
        let event = json!({
            "Type": "container", "Action": "health_status: healthy", "id": "abc", "from": "nginx:1", "timeNano": 1,
            "Actor": { "ID": "abc", "Attributes": { "name": "web", "tier": "front" } },
        });
        let passes = |texts: &[&str]| {
            let filters: Vec<Filter> = texts.iter().map(|text| Filter::parse(text).unwrap()).collect();
            super::passes(&filters, &event)
        };
        assert!(passes(&[]) && passes(&["event=health_status", "container=web"]));
        assert!(passes(&["event=start", "event=health_status"]) && passes(&["image=nginx"]));
        assert!(passes(&["label=tier", "label=tier=front"]) && !passes(&["label=tier", "label=x"]));
        assert!(!passes(&["event=start"]) && !passes(&["container=webx"]) && !passes(&["type=image"]));
        assert!(!passes(&["network=web"]));
        assert!(Filter::parse("color=red").is_err());
        assert_eq!(
            line(&event),
            "1970-01-01T00:00:00.000000001Z container health_status: healthy abc (name=web, tier=front)"
        );
    }
}
