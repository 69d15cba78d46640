//! Parsing of what follows an expression: attributes, items, slices and calls.

use minijinja::Value;
use minijinja::machinery::ast::{Call, CallArg, Expr, Spanned};

use super::expressions::Node;
use super::lexer::Token;
use super::parser::{MethodCalls, Parsed, Parser};
use super::values;

impl<'a> Parser<'a> {
    pub(crate) fn attribute(&mut self, node: Node<'a>) -> Parsed<Node<'a>> {
        self.advance();
        match *self.current() {
            Token::Name(name) => {
                self.advance();
                let name_node = self.constant(Value::from(name));
                let is_call = matches!(self.current(), Token::Operator("("));
                if !is_call || self.method_calls == MethodCalls::ByAttribute {
                    return self.filter(".attribute", node, vec![name_node]);
                }
                let (args, height) = self.arguments()?;
                let mut all = vec![CallArg::Pos(name_node.expr)];
                all.extend(args);
                self.filter_with(".call", Some(node), all, height)
            }
            Token::Int(number) => {
                self.advance();
                let index = self.constant(values::int(number));
                self.filter("[]", node, vec![index])
            }
            _ => self.unexpected("a name"),
        }
    }

    pub(crate) fn subscript(&mut self, node: Node<'a>) -> Parsed<Node<'a>> {
        self.advance();
        let mut keys = Vec::new();
        loop {
            if self.skip(":") {
                let start = self.constant(Value::from(()));
                return self.slice(node, start);
            }
            let key = self.expression()?;
            if keys.is_empty() && self.skip(":") {
                return self.slice(node, key);
            }
            keys.push(key);
            if self.skip("]") {
                break;
            }
            self.expect(",")?;
        }
        let key = match keys.pop() {
            Some(key) if keys.is_empty() => key,
            key => {
                keys.extend(key);
                self.collection(".tuple", keys)?
            }
        };
        self.filter("[]", node, vec![key])
    }

    /// Parses the rest of `[start:stop:step]`, behind the first colon.
    fn slice(&mut self, node: Node<'a>, start: Node<'a>) -> Parsed<Node<'a>> {
        let none = |parser: &Self| parser.constant(Value::from(()));
        let is_bound = |parser: &Self| !matches!(parser.current(), Token::Operator(":" | "]"));
        let stop = if is_bound(self) { self.expression()? } else { none(self) };
        let step = if self.skip(":") && is_bound(self) { self.expression()? } else { none(self) };
        self.expect("]")?;
        self.filter("[:]", node, vec![start, stop, step])
    }

    pub(crate) fn call(&mut self, node: Node<'a>) -> Parsed<Node<'a>> {
        let (mut args, height) = self.arguments()?;
        let is_loop = matches!(&node.expr, Expr::Var(var) if var.id == "loop");
        if is_loop && let [CallArg::Pos(_)] = args.as_slice() {
            let Some(CallArg::Pos(items)) = args.pop() else { return self.unexpected("an argument") };
            let arity = self.constant(Value::from(0));
            let items = self.filter(".iterate", Node { expr: items, height }, vec![arity])?;
            args.push(CallArg::Pos(items.expr));
        }
        if !is_loop {
            args = args.into_iter().map(|arg| self.given(arg, height)).collect::<Parsed<_>>()?;
        }
        let expr = Call { expr: node.expr, args };
        self.node(node.height.max(height + 1), Expr::Call(Spanned::new(expr, self.span())))
    }

    /// Marks an argument as given, so that an undefined one stays distinct from one that was left out.
    fn given(&mut self, arg: CallArg<'a>, height: usize) -> Parsed<CallArg<'a>> {
        let wrapped = |parser: &mut Self, expr| match expr {
            Expr::Const(_) => Ok(expr),
            expr => Ok(parser.filter(".given", Node { expr, height }, Vec::new())?.expr),
        };
        Ok(match arg {
            CallArg::Pos(expr) => CallArg::Pos(wrapped(self, expr)?),
            CallArg::Kwarg(name, expr) => CallArg::Kwarg(name, wrapped(self, expr)?),
            splat => splat,
        })
    }

    /// Parses arguments in brackets; returns them and the height of the highest.
    pub(crate) fn arguments(&mut self) -> Parsed<(Vec<CallArg<'a>>, usize)> {
        self.expect("(")?;
        let (mut args, mut height) = (Vec::new(), 0);
        let mut named = false;
        while !self.skip(")") {
            if !args.is_empty() {
                self.expect(",")?;
                if self.skip(")") {
                    break;
                }
            }
            let name = match (self.current(), self.peek()) {
                (Token::Name(name), Token::Operator("=")) => Some(*name),
                _ => None,
            };
            let splat = if self.skip("*") { Some("*") } else { self.skip("**").then_some("**") };
            if name.is_some() {
                self.advance();
                self.advance();
            }
            let value = self.expression()?;
            height = height.max(value.height);
            args.push(match (name, splat) {
                (Some(name), _) => CallArg::Kwarg(name, value.expr),
                (None, Some("*")) => CallArg::PosSplat(value.expr),
                (None, Some(_)) => CallArg::KwargSplat(value.expr),
                (None, None) if named => return self.fail("a positional argument follows a named one"),
                (None, None) => CallArg::Pos(value.expr),
            });
            named |= name.is_some() || splat == Some("**");
            if args.len() > 1000 {
                return self.fail("too many arguments");
            }
        }
        Ok((args, height))
    }
}
