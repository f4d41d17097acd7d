//! Templates as docker's users write them.

use serde_json::{Value, json};

use super::*;

fn object() -> Value {
    json!({
        "Id": "sha256:0123456789ab",
        "Name": "/web",
        "State": { "Running": true, "Pid": 3, "Health": null },
        "Config": { "Labels": { "com.example.tier": "front", "b": "2" }, "Env": ["A=1", "B=2"], "Cmd": null },
        "Mounts": [{ "Destination": "/data", "RW": true }, { "Destination": "/logs", "RW": false }],
        "NetworkSettings": {
            "Ports": { "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "8080" }] },
            "Networks": { "front": { "IPAddress": "10.0.0.2" } },
        },
        "Size": 1.5,
    })
}

fn objects(text: &str) -> Result<String, FormatError> {
    Template::of_objects(text)?.render(&object())
}

fn line(text: &str) -> Result<String, FormatError> {
    let row = json!({
        "ID": "ab", "Names": "web", "Labels": "tier=front,zone=a b", "Label": { "tier": "front" }, "Size": "0B",
    });
    Template::of_lines(text)?.render(&row)
}

#[test]
fn scripts_of_dockers_users_work() {
    for (text, expected) in [
        ("{{.Name}} {{ .State.Pid }}!", "/web 3!"),
        (
            "{{range .Mounts}}{{if .RW}}{{println .Destination}}{{end}}{{end}}",
            "/data\n",
        ),
        (
            "{{range $i, $m := .Mounts}}{{if $i}},{{end}}{{$m.Destination}}{{end}}",
            "/data,/logs",
        ),
        (
            "{{range $key, $value := .Config.Labels}}{{$key}}={{$value}};{{end}}",
            "b=2;com.example.tier=front;",
        ),
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "10.0.0.2"),
        ("{{.NetworkSettings.Networks.front.IPAddress}}", "10.0.0.2"),
        (
            "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}",
            "8080",
        ),
        (
            "{{index .Config.Labels \"com.example.tier\"}}{{index .Config.Labels \"none\"}}",
            "front",
        ),
        ("{{.Config.Labels.none}}", "<no value>"),
        ("{{with .Config.Labels.none}}{{.}}{{else}}without{{end}}", "without"),
        (
            "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}",
            "none",
        ),
        ("{{if and .State.Running (not .State.Health)}}up{{end}}", "up"),
        ("{{eq .State.Pid 3}} {{len .Mounts}} {{len .Config.Cmd}}", "true 2 0"),
        (
            "{{join .Config.Env \", \"}} {{join (split \"a.b\" \".\") \"-\"}}",
            "A=1, B=2 a-b",
        ),
        (
            "{{upper .Name}} {{title \"two words\"}} {{lower \"ABC\"}}",
            "/WEB Two Words abc",
        ),
        (
            "{{pad \"x\" 1 2}}|{{truncate .Name 3}}|{{slice .Id 7 11}}",
            " x  |/we|0123",
        ),
        (
            "{{printf \"%-6s|%q|%05d\" .Name .Name .State.Pid}}",
            "/web  |\"/web\"|00003",
        ),
        (
            "{{.Config.Env}} {{.Config.Labels}}",
            "[A=1 B=2] map[b:2 com.example.tier:front]",
        ),
        (
            "{{json .Config.Env}} {{.Name | json}} {{json .Size}}",
            "[\"A=1\",\"B=2\"] \"/web\" 1.5",
        ),
        (
            "{{define \"n\"}}<{{.Name}}>{{end}}{{template \"n\" .}}{{- /* end */ -}} ",
            "</web>",
        ),
        (
            "{{$n := .Name}}{{$n}}{{with .State}}{{.Pid}}{{$.Name}}{{end}}",
            "/web3/web",
        ),
        (
            "{{.Config.Cmd}} {{json .Config.Cmd}} {{range .Config.Cmd}}x{{end}}",
            "[] null ",
        ),
        ("a\\tb", "a\\tb"),
    ] {
        assert_eq!(objects(text).unwrap(), expected, "{text}");
    }
    assert_eq!(
        serde_json::from_str::<Value>(&objects("json").unwrap()).unwrap(),
        object()
    );
}

#[test]
fn rows_have_labels_by_key_and_tables_have_headers() {
    assert_eq!(
        line("{{.Names}}\\t{{.Label \"tier\"}}{{.Label \"x\"}}").unwrap(),
        "web\tfront"
    );
    assert_eq!(line("{{\"tier\" | .Label}}").unwrap(), "front");
    let all: Value = serde_json::from_str(&line("json").unwrap()).unwrap();
    assert_eq!(
        all,
        json!({ "ID": "ab", "Names": "web", "Labels": "tier=front,zone=a b", "Size": "0B" })
    );
    let table = Template::of_lines("table {{.ID}}\\t{{upper .State.Status}}\\t{{.Label \"a.b-c\"}}\\t{{.CreatedAt}}");
    let table = table.unwrap();
    assert!(table.is_table() && !table.is_plain_table());
    let header = table.header(&[("ID", "CONTAINER ID")]).unwrap();
    assert_eq!(header, "CONTAINER ID\tSTATUS\tb c\tCREATED AT");
    assert!(Template::of_lines("table").unwrap().is_plain_table());
    assert!(table.names("ID") && !table.names("Size") && Template::of_lines("json").unwrap().names("Size"));
}

#[test]
fn values_do_not_control_the_terminal_and_the_users_words_may() {
    let object = json!({ "Label": "a\u{202e}\x1b\nb\t\u{10fffe}", "All": ["\u{9b}"], "Map": { "\x1b": "\n" } });
    let lines = |text: &str| Template::of_lines(text).unwrap().render(&object).unwrap();
    let objects = |text: &str| Template::of_objects(text).unwrap().render(&object).unwrap();
    assert_eq!(lines("\x1b[1m{{.Label}}"), "\x1b[1ma\\u{202e}\\u{1b}\\nb\\t\u{fffd}");
    assert_eq!(objects("{{.Label}}"), "a\\u{202e}\\u{1b}\nb\t\u{fffd}");
    assert_eq!(lines("{{.All}} {{.Map}}"), "[\\u{9b}] map[\\u{1b}:\\n]");
    assert_eq!(
        lines("{{.All}} {{json .Label}}"),
        "[\\u{9b}] \"a\\u202e\\u001b\\nb\\t\u{fffd}\""
    );
    for text in [
        "{{printf \"%s\" .Label}}",
        "{{slice .Label 4}}",
        "{{printf \"%c\" (index .Label 4)}}",
        "{{join (split .Label \"\") \"\"}}",
        "{{truncate .Label 3}}",
        "{{upper .Label | printf \"%v\"}}",
        "{{$x := .Label}}{{$x}}",
        "{{define \"x\"}}{{.Label}}{{end}}{{template \"x\" .}}",
        "{{block \"y\" .}}{{print .Label}}{{end}}",
    ] {
        let shown = lines(text);
        assert!(!shown.chars().any(capsid_image::controls_terminal), "{text}: {shown:?}");
    }
    // Line ends that the user asks for are there, also with a value.
    assert_eq!(lines("{{println .All}}"), "[\\u{9b}]\n");
}

#[test]
fn what_is_wrong_is_named() {
    assert!(matches!(Template::of_objects("{{.Name"), Err(FormatError::Open)));
    for text in ["{{.Name | }}", "{{if}}x{{end}}"] {
        assert!(
            matches!(Template::of_objects(text), Err(FormatError::Syntax(_))),
            "{text}"
        );
    }
    for text in [
        "{{range .Mounts}}",
        "{{if .Name}}x",
        "{{if .Name}}x{{else}}",
        "{{end}}",
        "{{.Name}}{{end}}{{.Name}}",
        "{{else}}x",
        "{{define \"x\"}}y",
    ] {
        assert!(Template::of_objects(text).is_err(), "{text}");
    }
    let missing = |text: &str| match objects(text) {
        Err(FormatError::Field(path)) => path,
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(missing("{{.Nope}}"), ".Nope");
    assert_eq!(missing("{{.State.Nope}}"), ".State.Nope");
    assert_eq!(missing("{{.State.Health.Status}}"), ".State.Health.Status");
    assert_eq!(missing("{{range .Mounts}}{{.Nope}}{{end}}"), ".Nope");
    for text in [
        "{{nope .Name}}",
        "{{.Name \"x\"}}",
        "{{upper .Mounts}}",
        "{{index .Mounts 9}}",
        "{{.Name.First}}",
    ] {
        assert!(matches!(objects(text), Err(FormatError::Render(_))), "{text}");
    }
}

#[test]
fn endless_templates_end() {
    let deep = format!("{}{}", "{{if true}}".repeat(5000), "{{end}}".repeat(5000));
    assert!(objects(&deep).is_err());
    assert!(objects("{{define \"x\"}}{{template \"x\" .}}{{end}}{{template \"x\" .}}").is_err());
    assert!(objects("{{range 1000000000}}{{range 1000000000}}{{end}}{{end}}").is_err());
}

proptest::proptest! {
    #[test]
    fn no_template_panics(words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..12)) {
        for separator in ["", " "] {
            let text = words.join(separator);
            let _ = line(&text);
            let _ = objects(&text);
            let _ = Template::of_lines(&format!("table {text}")).and_then(|template| template.header(&[]));
        }
    }
}

const WORDS: [&str; 40] = [
    "{{",
    "}}",
    "{{-",
    "-}}",
    "{{end}}",
    "{{else}}",
    "{{if .Name}}",
    "{{range .Mounts}}",
    "{{with .State}}",
    "{{break}}",
    "{{continue}}",
    "{{/* x */}}",
    "{{define \"x\"}}",
    "{{template \"x\" .}}",
    "{{block \"x\" .}}",
    "{{else if .Name}}",
    ".",
    ".Name",
    ".Label",
    "$",
    "$x",
    "$x.Name",
    ":=",
    "=",
    "|",
    "(",
    ")",
    ",",
    "\"a\"",
    "`b`",
    "'c'",
    "1",
    "-1",
    "nil",
    "true",
    "json",
    "index",
    "printf",
    "\u{10fffe}",
    "é",
];
