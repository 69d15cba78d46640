//! Tags, parsed as Jinja2 parses them, into the engine's syntax tree.

use minijinja::Value;
use minijinja::machinery::Span;
use minijinja::machinery::ast::{
    Break, CallBlock, Continue, EmitExpr, Expr, FilterBlock, ForLoop, IfCond, List, Macro, Set, SetBlock,
    Spanned, Stmt, Var, WithBlock,
};

use super::expressions::{Conditional, Node, TupleEnd};
use super::lexer::Token;
use super::macros::{KWARGS, VARARGS};
use super::parser::{LoopControl, MethodCalls, Parsed, Parser};

/// `elif` in a row: each is a block in a block to the compiler.
const MOST_BRANCHES: usize = 200;

/// Blocks whose inside is a scope, not a loop's.
#[derive(Clone, Copy)]
enum Scope {
    /// A block whose inside belongs to the loop around the block.
    Inner,
    /// A block whose inside can be called from elsewhere, such as a macro.
    Function,
}

impl<'a> Parser<'a> {
    /// Statements up to a tag of one of `ends`, and its name, behind which the parser then is.
    pub(crate) fn statements_until(&mut self, ends: &[&str]) -> Parsed<(Vec<Stmt<'a>>, Option<&'a str>)> {
        let mut statements = Vec::new();
        loop {
            let span = Self::span_of(self.line());
            match *self.current() {
                Token::Data(text) => {
                    let node = self.constant(Value::from(text));
                    self.advance();
                    statements.push(Stmt::EmitExpr(Spanned::new(EmitExpr { expr: node.expr }, span)));
                }
                Token::VariableBegin => {
                    self.advance();
                    let expr = self.tuple(Conditional::Allowed, TupleEnd::Tag)?.expr;
                    if !matches!(self.current(), Token::VariableEnd) {
                        return self.unexpected("the end of the expression");
                    }
                    self.advance();
                    statements.push(Stmt::EmitExpr(Spanned::new(EmitExpr { expr }, span)));
                }
                Token::BlockBegin => {
                    self.advance();
                    let name = self.name("the name of a tag")?;
                    if ends.contains(&name) {
                        return Ok((statements, Some(name)));
                    }
                    self.enter()?;
                    statements.extend(self.statement(name)?);
                    self.leave();
                    self.end_of_tag()?;
                }
                _ if ends.is_empty() => return Ok((statements, None)),
                _ => return self.fail(format!("the template ends before `{}`", ends.join("` or `"))),
            }
        }
    }

    fn end_of_tag(&mut self) -> Parsed<()> {
        if !matches!(self.current(), Token::BlockEnd) {
            return self.unexpected("the end of the tag");
        }
        self.advance();
        Ok(())
    }

    /// The rest of a tag and the statements up to one of `ends`.
    fn body(&mut self, ends: &[&str]) -> Parsed<(Vec<Stmt<'a>>, &'a str)> {
        self.skip(":");
        self.end_of_tag()?;
        let (statements, end) = self.statements_until(ends)?;
        Ok((statements, end.unwrap_or_default()))
    }

    fn body_in(&mut self, scope: Scope, end: &str) -> Parsed<Vec<Stmt<'a>>> {
        let (loop_control, is_lenient) = (self.loop_control, self.is_lenient);
        self.is_lenient = false;
        self.loop_control = match (scope, loop_control) {
            (Scope::Function, _) | (_, LoopControl::None) => LoopControl::None,
            (Scope::Inner, _) => LoopControl::InBlock,
        };
        let (statements, _) = self.body(&[end])?;
        (self.loop_control, self.is_lenient) = (loop_control, is_lenient);
        Ok(statements)
    }

    fn statement(&mut self, name: &str) -> Parsed<Vec<Stmt<'a>>> {
        let span = self.span();
        let statement = match name {
            "for" => Stmt::ForLoop(Spanned::new(self.for_loop()?, span)),
            "if" => {
                let is_lenient = std::mem::replace(&mut self.is_lenient, true);
                let condition = self.condition(0)?;
                self.is_lenient = is_lenient;
                Stmt::IfCond(Spanned::new(condition, span))
            }
            "set" => self.set()?,
            "with" => Stmt::WithBlock(Spanned::new(self.with()?, span)),
            "generation" => {
                let body = self.body_in(Scope::Inner, "endgeneration")?;
                Stmt::WithBlock(Spanned::new(WithBlock { assignments: Vec::new(), body }, span))
            }
            "block" => {
                let block = self.name("the name of the block")?;
                while self.skip_name("scoped") || self.skip_name("required") {}
                let body = self.body_in(Scope::Inner, "endblock")?;
                self.skip_name(block);
                Stmt::WithBlock(Spanned::new(WithBlock { assignments: Vec::new(), body }, span))
            }
            "macro" => return self.macro_block(span),
            "call" => Stmt::CallBlock(Spanned::new(self.call_block()?, span)),
            "filter" => {
                let filter = self.named_filters(None)?.expr;
                let body = self.body_in(Scope::Inner, "endfilter")?;
                Stmt::FilterBlock(Spanned::new(FilterBlock { filter, body }, span))
            }
            "print" => return self.print(),
            "break" | "continue" => self.loop_control(name)?,
            "include" | "import" | "from" | "extends" => {
                return self
                    .fail(format!("`{name}` needs other templates, and a chat template stands alone"));
            }
            "autoescape" => return self.fail("`autoescape` is not supported"),
            name => return self.fail(format!("unknown tag `{name}`")),
        };
        Ok(vec![statement])
    }

    /// A macro; one that reads `varargs` or `kwargs` has them as its last parameters, and is wrapped so that calls
    /// fill them.
    fn macro_block(&mut self, span: Span) -> Parsed<Vec<Stmt<'a>>> {
        let name = self.name("the name of the macro")?;
        let (mut args, mut body) = self.parameters()?;
        let outer = std::mem::take(&mut self.surplus);
        body.extend(self.body_in(Scope::Function, "endmacro")?);
        let is_free = |id: &str| !args.iter().any(|arg| matches!(arg, Expr::Var(var) if var.id == id));
        let mut collected = Vec::new();
        if self.surplus.varargs && is_free(VARARGS) {
            collected.push(self.variable(VARARGS).expr);
        }
        if self.surplus.kwargs && is_free(KWARGS) {
            collected.push(self.variable(KWARGS).expr);
        }
        self.surplus.varargs |= outer.varargs;
        self.surplus.kwargs |= outer.kwargs;
        let collects = !collected.is_empty();
        args.extend(collected);
        let plain = Stmt::Macro(Spanned::new(Macro { name, args, defaults: Vec::new(), body }, span));
        if !collects {
            return Ok(vec![plain]);
        }
        let inner = self.variable(name);
        let wrapped = self.filter(".collecting", inner, Vec::new())?.expr;
        Ok(vec![plain, self.set_to(name, wrapped)])
    }

    fn print(&mut self) -> Parsed<Vec<Stmt<'a>>> {
        let mut statements = Vec::new();
        while !matches!(self.current(), Token::BlockEnd) {
            if !statements.is_empty() {
                self.expect(",")?;
            }
            let expr = self.expression()?.expr;
            statements.push(Stmt::EmitExpr(Spanned::new(EmitExpr { expr }, self.span())));
        }
        Ok(statements)
    }

    fn loop_control(&mut self, name: &str) -> Parsed<Stmt<'a>> {
        match (self.loop_control, name) {
            (LoopControl::None, _) => self.fail(format!("`{name}` outside of a loop")),
            (LoopControl::InBlock, _) => {
                self.fail(format!("`{name}` out of a block that is not the loop's is not supported"))
            }
            (LoopControl::Allowed, "break") => Ok(Stmt::Break(Spanned::new(Break, self.span()))),
            (LoopControl::Allowed, _) => Ok(Stmt::Continue(Spanned::new(Continue, self.span()))),
        }
    }

    fn for_loop(&mut self) -> Parsed<ForLoop<'a>> {
        let (target, arity) = self.target(TupleEnd::In)?;
        if matches!(&target, Expr::Var(var) if var.id == "loop") {
            return self.fail("cannot assign to `loop` in a loop");
        }
        if !self.skip_name("in") {
            return self.unexpected("`in`");
        }
        let iter = self.tuple(Conditional::Not, TupleEnd::Recursive)?;
        let arity = self.constant(Value::from(arity));
        let iter = self.filter(".iterate", iter, vec![arity])?.expr;
        let filter_expr = if self.skip_name("if") { Some(self.expression()?.expr) } else { None };
        let recursive = self.skip_name("recursive");
        let is_lenient = std::mem::replace(&mut self.is_lenient, false);
        let loop_control = std::mem::replace(&mut self.loop_control, LoopControl::Allowed);
        let (body, end) = self.body(&["endfor", "else"])?;
        self.loop_control = loop_control;
        // The engine has left the loop's own frame by then, so that `break` there is the outer loop's.
        let else_body = if end == "else" { self.body(&["endfor"])?.0 } else { Vec::new() };
        self.is_lenient = is_lenient;
        Ok(ForLoop { target, iter, filter_expr, recursive, body, else_body })
    }

    fn condition(&mut self, branches: usize) -> Parsed<IfCond<'a>> {
        if branches > MOST_BRANCHES {
            return self.fail("too many `elif`");
        }
        let expr = self.tuple(Conditional::Not, TupleEnd::Tag)?.expr;
        let (true_body, end) = self.body(&["elif", "else", "endif"])?;
        let false_body = match end {
            "elif" => {
                let span = self.span();
                vec![Stmt::IfCond(Spanned::new(self.condition(branches + 1)?, span))]
            }
            "else" => self.body(&["endif"])?.0,
            _ => Vec::new(),
        };
        Ok(IfCond { expr, true_body, false_body })
    }

    fn set(&mut self) -> Parsed<Stmt<'a>> {
        if let (Token::Name(id), Token::Operator(".")) = (self.current().clone(), self.peek()) {
            self.advance();
            self.advance();
            let name = self.name("an attribute")?;
            let target = self.attribute_target(id, name);
            let check = if name.starts_with('_') { ".private" } else { ".store" };
            return self.assignment(target, 0, Some(check));
        }
        let (target, arity) = self.target(TupleEnd::Tag)?;
        self.assignment(target, arity, None)
    }

    /// The rest of `set`, behind its target, which takes `arity` values, 0 if it takes one as it is. `check` is a
    /// filter that the value must pass.
    fn assignment(
        &mut self,
        target: Expr<'a>,
        arity: usize,
        check: Option<&'static str>,
    ) -> Parsed<Stmt<'a>> {
        let span = self.span();
        if self.skip("=") {
            let mut value = self.tuple(Conditional::Allowed, TupleEnd::Tag)?;
            if arity > 0 {
                let arity = self.constant(Value::from(arity));
                value = self.filter(".unpack", value, vec![arity])?;
            }
            if let Some(check) = check {
                value = self.filter(check, value, Vec::new())?;
            }
            return Ok(Stmt::Set(Spanned::new(Set { target, expr: value.expr }, span)));
        }
        let filter = if self.skip("|") { Some(self.named_filters(None)?.expr) } else { None };
        let body = self.body_in(Scope::Inner, "endset")?;
        Ok(Stmt::SetBlock(Spanned::new(SetBlock { target, filter, body }, span)))
    }

    /// Names that are assigned to, and how many values they take, 0 for one name.
    fn target(&mut self, end: TupleEnd) -> Parsed<(Expr<'a>, usize)> {
        self.enter()?;
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            let is_end = match self.current() {
                Token::Name("in") => end == TupleEnd::In,
                Token::Operator(")" | "=") | Token::BlockEnd => true,
                _ => false,
            };
            if is_end {
                break;
            }
            items.push(self.one_target()?);
            if !self.skip(",") {
                break;
            }
            is_tuple = true;
        }
        self.leave();
        match items.pop() {
            Some(item) if !is_tuple => Ok((item, 0)),
            None => self.unexpected("a name"),
            last => {
                items.extend(last);
                let count = items.len();
                Ok((Expr::List(Spanned::new(List { items }, self.span())), count))
            }
        }
    }

    fn one_target(&mut self) -> Parsed<Expr<'a>> {
        if self.skip("(") || self.skip("[") {
            let (target, _) = self.target(TupleEnd::Tag)?;
            if !self.skip(")") {
                self.expect("]")?;
            }
            return Ok(target);
        }
        let id = self.name("a name")?;
        if matches!(id, "true" | "True" | "false" | "False" | "none" | "None") {
            return self.fail(format!("cannot assign to `{id}`"));
        }
        Ok(Expr::Var(Spanned::new(Var { id }, self.span())))
    }

    fn with(&mut self) -> Parsed<WithBlock<'a>> {
        let (mut targets, mut values) = (Vec::new(), Vec::new());
        while !matches!(self.current(), Token::BlockEnd) {
            if !targets.is_empty() {
                self.expect(",")?;
            }
            targets.push(self.one_target()?);
            self.expect("=")?;
            values.push(self.expression()?);
        }
        let body = self.body_in(Scope::Inner, "endwith")?;
        if targets.is_empty() {
            return Ok(WithBlock { assignments: Vec::new(), body });
        }
        // All values are those of outside, so that they are computed before the first is assigned.
        let nothing = self.constant(Value::from(()));
        let values = self.filter(".tuple", nothing, values)?.expr;
        let target = Expr::List(Spanned::new(List { items: targets }, self.span()));
        Ok(WithBlock { assignments: vec![(target, values)], body })
    }

    /// Parameters of a macro in brackets, and the statements that give those their defaults which were not given: the
    /// engine's own defaults cannot have other parameters in them, and take an undefined argument for none.
    fn parameters(&mut self) -> Parsed<(Vec<Expr<'a>>, Vec<Stmt<'a>>)> {
        self.expect("(")?;
        let (mut names, mut statements) = (Vec::new(), Vec::new());
        let (mut seen, mut has_default) = (Vec::new(), false);
        while !self.skip(")") {
            if !names.is_empty() {
                self.expect(",")?;
                if self.skip(")") {
                    break;
                }
            }
            let id = self.name("the name of a parameter")?;
            if seen.contains(&id) {
                return self.fail(format!("two parameters are called `{id}`"));
            }
            seen.push(id);
            names.push(self.variable(id).expr);
            if self.skip("=") {
                has_default = true;
                statements.push(self.default_of(id)?);
            } else if has_default {
                return self.fail("a parameter without a default follows one with a default");
            }
            let given = self.variable(id);
            let received = self.filter(".received", given, Vec::new())?.expr;
            statements.push(self.set_to(id, received));
        }
        Ok((names, statements))
    }

    /// `{% if id is missing %}{% set id = ... %}{% endif %}`.
    fn default_of(&mut self, id: &'a str) -> Parsed<Stmt<'a>> {
        let value = self.expression()?.expr;
        let parameter = self.variable(id);
        let expr = self.filter(".missing", parameter, Vec::new())?.expr;
        let true_body = vec![self.set_to(id, value)];
        Ok(Stmt::IfCond(Spanned::new(IfCond { expr, true_body, false_body: Vec::new() }, self.span())))
    }

    fn variable(&self, id: &'a str) -> Node<'a> {
        Node { expr: Expr::Var(Spanned::new(Var { id }, self.span())), height: 1 }
    }

    fn set_to(&self, id: &'a str, expr: Expr<'a>) -> Stmt<'a> {
        Stmt::Set(Spanned::new(Set { target: self.variable(id).expr, expr }, self.span()))
    }

    fn call_block(&mut self) -> Parsed<CallBlock<'a>> {
        let span = self.span();
        let (args, mut body) = if matches!(self.current(), Token::Operator("(")) {
            self.parameters()?
        } else {
            (Vec::new(), Vec::new())
        };
        self.method_calls = MethodCalls::ByAttribute;
        let Node { expr, .. } = self.expression()?;
        self.method_calls = MethodCalls::ByName;
        let Expr::Call(call) = expr else { return self.fail("expected a call of a macro") };
        let outer = std::mem::take(&mut self.surplus);
        body.extend(self.body_in(Scope::Function, "endcall")?);
        let is_free = |id: &str| !args.iter().any(|arg| matches!(arg, Expr::Var(var) if var.id == id));
        let inner = std::mem::replace(&mut self.surplus, outer);
        if (inner.varargs && is_free(VARARGS)) || (inner.kwargs && is_free(KWARGS)) {
            return self.fail("`varargs` and `kwargs` in a `call` block are not supported");
        }
        let macro_decl = Spanned::new(Macro { name: "caller", args, defaults: Vec::new(), body }, span);
        Ok(CallBlock { call, macro_decl })
    }
}
