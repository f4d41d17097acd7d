//! Rewriting of a template's tree before it is used.
//!
//! As in Go's `html/template`, every action gets a last command: here it makes the action's text safe for a terminal.
//! Fields are found by a function of this module, because docker's objects are structs, in which a wrong name is an
//! error, and maps, in which a missing key is nothing. A field with arguments is a call of a method.

use std::collections::BTreeSet;

use gotmpl::parse::{BranchNode, CommandNode, Expr, ListNode, Node, PipeNode, Pos, SmolStr};

use super::functions::{FIELD, SHOWN};
use super::value::Lines;

/// State of one rewriting.
#[derive(Debug)]
pub(super) struct Rewrite {
    lines: Lines,
    fields: BTreeSet<Vec<String>>,
}

impl Rewrite {
    pub(super) fn new(lines: Lines) -> Self {
        Self {
            lines,
            fields: BTreeSet::new(),
        }
    }

    /// Returns the fields that the template names, as paths; the empty path is the object itself.
    pub(super) fn into_fields(self) -> BTreeSet<Vec<String>> {
        self.fields
    }

    pub(super) fn list(&mut self, list: &mut ListNode) {
        list.nodes.iter_mut().for_each(|node| self.node(node));
    }

    fn node(&mut self, node: &mut Node) {
        match node {
            Node::List(list) => self.list(list),
            Node::Text(text) if self.lines == Lines::One => text.text = unescape(&text.text).into(),
            Node::Text(_) | Node::Break(_) | Node::Continue(_) => {}
            Node::Action(action) => {
                let name = Expr::String(action.pos, printed_field(&action.pipe).into());
                self.pipe(&mut action.pipe);
                // A declaration prints nothing.
                if action.pipe.decl.is_empty() {
                    action.pipe.commands.push(call(action.pos, SHOWN, [name]));
                }
            }
            Node::If(branch) | Node::With(branch) | Node::Range(branch) => self.branch(branch),
            Node::Template(template) => template.pipe.iter_mut().for_each(|pipe| self.pipe(pipe)),
            Node::Define(define) => self.list(&mut define.body),
        }
    }

    fn branch(&mut self, branch: &mut BranchNode) {
        self.pipe(&mut branch.pipe);
        self.list(&mut branch.body);
        branch.else_body.iter_mut().for_each(|body| self.list(body));
    }

    fn pipe(&mut self, pipe: &mut PipeNode) {
        for (place, command) in pipe.commands.iter_mut().enumerate() {
            self.command(command, place > 0);
        }
    }

    fn command(&mut self, command: &mut CommandNode, is_piped_to: bool) {
        let has_arguments = is_piped_to || command.args.len() > 1;
        let is_field = match command.args.first() {
            Some(Expr::Field(..)) => true,
            Some(Expr::Variable(_, _, names)) => !names.is_empty(),
            _ => false,
        };
        command.args.iter_mut().for_each(|argument| self.expression(argument));
        if has_arguments && is_field {
            command
                .args
                .insert(0, Expr::Identifier(command.pos, SmolStr::new_static("call")));
        }
    }

    fn expression(&mut self, expression: &mut Expr) {
        let (pos, base, names) = match expression {
            Expr::Field(pos, names) => (*pos, Expr::Dot(*pos), names),
            Expr::Variable(pos, name, names) if !names.is_empty() => {
                (*pos, Expr::Variable(*pos, name.clone(), Vec::new()), names)
            }
            // For a function with arguments, the engine finds the field.
            Expr::Chain(pos, inner, names) if !matches!(**inner, Expr::Identifier(..)) => {
                self.expression(inner);
                (*pos, (**inner).clone(), names)
            }
            Expr::Pipe(_, pipe) => return self.pipe(pipe),
            Expr::Dot(_) => {
                self.fields.insert(Vec::new());
                return;
            }
            _ => return,
        };
        self.fields.insert(names.iter().map(ToString::to_string).collect());
        let name = |name: &SmolStr| Expr::String(pos, name.as_str().into());
        let arguments: Vec<Expr> = [base].into_iter().chain(names.iter().map(name)).collect();
        *expression = Expr::Pipe(pos, pipe_of(call(pos, FIELD, arguments)));
    }
}

/// Returns the name of the field that an action prints; empty where it prints anything else.
fn printed_field(pipe: &PipeNode) -> &str {
    let [command] = &pipe.commands[..] else { return "" };
    match &command.args[..] {
        [Expr::Field(_, names) | Expr::Variable(_, _, names) | Expr::Chain(_, _, names)] => {
            names.last().map_or("", SmolStr::as_str)
        }
        _ => "",
    }
}

fn pipe_of(command: CommandNode) -> PipeNode {
    PipeNode {
        pos: command.pos,
        decl: Vec::new(),
        commands: vec![command],
        is_assign: false,
    }
}

fn call(pos: Pos, function: &'static str, arguments: impl IntoIterator<Item = Expr>) -> CommandNode {
    let function = Expr::Identifier(pos, SmolStr::new_static(function));
    CommandNode {
        pos,
        args: [function].into_iter().chain(arguments).collect(),
    }
}

/// Replaces `\t` and `\n`, as shells pass them on, by a tab and a line end.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}
