//! Expressions, parsed as Jinja2 parses them, into the engine's syntax tree.
//!
//! For operations that the engine computes differently from Python, the tree has filters whose names no template can
//! write: `.call`, `[]`, `+` and so on. `environment.rs` registers them.

use minijinja::Value;
use minijinja::machinery::ast::{
    BinOp, BinOpKind, CallArg, Const, Expr, Filter, GetAttr, IfExpr, Spanned, Test, UnaryOp, UnaryOpKind, Var,
};

use super::lexer::Token;
use super::parser::{Parsed, Parser};
use super::{macros, values};

/// An expression and how many expressions it has inside one another.
pub(crate) struct Node<'a> {
    pub(crate) expr: Expr<'a>,
    pub(crate) height: usize,
}

/// The token before which a tuple without brackets ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TupleEnd {
    Tag,
    In,
    Recursive,
}

/// Permission for an `if` as part of an expression.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conditional {
    Allowed,
    Not,
}

/// Brackets around a tuple.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Brackets {
    None,
    Round,
}

/// Part of an operand that is parsed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operand {
    /// An operand with the filters and tests behind it.
    Whole,
    /// An operand behind a sign, without filters and tests: those apply to the sign and the operand together.
    Signed,
}

impl<'a> Parser<'a> {
    /// An expression, or several with commas between them, which are a tuple.
    pub(crate) fn tuple(&mut self, conditional: Conditional, end: TupleEnd) -> Parsed<Node<'a>> {
        self.tuple_of(conditional, end, Brackets::None)
    }

    fn tuple_of(&mut self, conditional: Conditional, end: TupleEnd, brackets: Brackets) -> Parsed<Node<'a>> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if self.is_tuple_end(end) {
                break;
            }
            items.push(match conditional {
                Conditional::Allowed => self.expression()?,
                Conditional::Not => self.or()?,
            });
            if !self.skip(",") {
                break;
            }
            is_tuple = true;
        }
        if !is_tuple {
            match items.pop() {
                Some(item) => return Ok(item),
                None if brackets == Brackets::None => return self.unexpected("an expression"),
                None => {}
            }
        }
        self.collection(".tuple", items)
    }

    fn is_tuple_end(&self, end: TupleEnd) -> bool {
        match self.current() {
            Token::VariableEnd | Token::BlockEnd | Token::Operator(")") => true,
            Token::Name("in") => end == TupleEnd::In,
            Token::Name("recursive") => end == TupleEnd::Recursive,
            _ => false,
        }
    }

    /// One expression, `a if b else c` included.
    pub(crate) fn expression(&mut self) -> Parsed<Node<'a>> {
        self.enter()?;
        let mut node = self.or()?;
        while self.skip_name("if") {
            let test = self.or()?;
            let other = if self.skip_name("else") { Some(self.expression()?) } else { None };
            let height = [node.height, test.height, other.as_ref().map_or(0, |n| n.height)];
            let height = height.into_iter().max().unwrap_or(0);
            let (test_expr, true_expr, false_expr) = (test.expr, node.expr, other.map(|n| n.expr));
            let span = self.span();
            node = self.node(
                height,
                Expr::IfExpr(Spanned::new(IfExpr { test_expr, true_expr, false_expr }, span)),
            )?;
        }
        self.leave();
        Ok(node)
    }

    pub(crate) fn or(&mut self) -> Parsed<Node<'a>> {
        let mut left = self.and()?;
        while self.skip_name("or") {
            let right = self.and()?;
            left = self.logic(BinOpKind::ScOr, left, right)?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed<Node<'a>> {
        let mut left = self.not()?;
        while self.skip_name("and") {
            let right = self.not()?;
            left = self.logic(BinOpKind::ScAnd, left, right)?;
        }
        Ok(left)
    }

    fn logic(&mut self, op: BinOpKind, left: Node<'a>, right: Node<'a>) -> Parsed<Node<'a>> {
        let height = left.height.max(right.height);
        let expr = BinOp { op, left: left.expr, right: right.expr };
        self.node(height, Expr::BinOp(Spanned::new(expr, self.span())))
    }

    fn not(&mut self) -> Parsed<Node<'a>> {
        if !self.skip_name("not") {
            return self.comparison();
        }
        self.enter()?;
        let node = self.not()?;
        self.leave();
        self.negated(node)
    }

    fn negated(&mut self, node: Node<'a>) -> Parsed<Node<'a>> {
        let expr = UnaryOp { op: UnaryOpKind::Not, expr: node.expr };
        self.node(node.height, Expr::UnaryOp(Spanned::new(expr, self.span())))
    }

    /// `a < b <= c ...`, as one filter over operands and operators.
    fn comparison(&mut self) -> Parsed<Node<'a>> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let operator = match self.current() {
                Token::Operator(operator @ ("==" | "!=" | "<" | "<=" | ">" | ">=")) => *operator,
                Token::Name("in") => "in",
                Token::Name("not") if matches!(self.peek(), Token::Name("in")) => {
                    self.advance();
                    "not in"
                }
                _ => break,
            };
            self.advance();
            rest.push(self.constant(Value::from(operator)));
            rest.push(self.sum()?);
        }
        if rest.is_empty() { Ok(first) } else { self.filter(".compare", first, rest) }
    }

    fn sum(&mut self) -> Parsed<Node<'a>> {
        let mut left = self.concatenation()?;
        while let Token::Operator(operator @ ("+" | "-")) = *self.current() {
            self.advance();
            let right = self.concatenation()?;
            left = self.filter(operator, left, vec![right])?;
        }
        Ok(left)
    }

    fn concatenation(&mut self) -> Parsed<Node<'a>> {
        let first = self.product()?;
        let mut rest = Vec::new();
        while self.skip("~") {
            rest.push(self.product()?);
        }
        if rest.is_empty() { Ok(first) } else { self.filter("~", first, rest) }
    }

    fn product(&mut self) -> Parsed<Node<'a>> {
        let mut left = self.power()?;
        while let Token::Operator(operator @ ("*" | "/" | "//" | "%")) = *self.current() {
            self.advance();
            let right = self.power()?;
            left = self.filter(operator, left, vec![right])?;
        }
        Ok(left)
    }

    fn power(&mut self) -> Parsed<Node<'a>> {
        let mut left = self.unary(Operand::Whole)?;
        while self.skip("**") {
            let right = self.unary(Operand::Whole)?;
            left = self.filter("**", left, vec![right])?;
        }
        Ok(left)
    }

    fn unary(&mut self, operand: Operand) -> Parsed<Node<'a>> {
        let sign = match self.current() {
            Token::Operator("-") => Some("-value"),
            Token::Operator("+") => Some("+value"),
            _ => None,
        };
        let node = match sign {
            Some(name) => {
                self.advance();
                self.enter()?;
                let signed = self.unary(Operand::Signed)?;
                self.leave();
                self.filter(name, signed, Vec::new())?
            }
            None => self.primary()?,
        };
        let node = self.postfix(node)?;
        if operand == Operand::Whole { self.filters(node) } else { Ok(node) }
    }

    pub(crate) fn primary(&mut self) -> Parsed<Node<'a>> {
        let token = self.current().clone();
        match token {
            Token::Name("true" | "True") => Ok(self.literal(Value::from(true))),
            Token::Name("false" | "False") => Ok(self.literal(Value::from(false))),
            Token::Name("none" | "None") => Ok(self.literal(Value::from(()))),
            Token::Name(id) => {
                self.advance();
                self.surplus.varargs |= id == macros::VARARGS;
                self.surplus.kwargs |= id == macros::KWARGS;
                Ok(Node { expr: Expr::Var(Spanned::new(Var { id }, self.span())), height: 1 })
            }
            Token::Str(mut text) => {
                self.advance();
                while let Token::Str(more) = self.current() {
                    text.push_str(more);
                    self.advance();
                }
                Ok(self.constant(Value::from(text)))
            }
            Token::Int(number) => Ok(self.literal(values::int(number))),
            Token::Float(number) => Ok(self.literal(Value::from(number))),
            Token::Operator("(") => {
                self.advance();
                self.enter()?;
                let node = self.tuple_of(Conditional::Allowed, TupleEnd::Tag, Brackets::Round)?;
                self.leave();
                self.expect(")")?;
                Ok(node)
            }
            Token::Operator("[") => {
                self.advance();
                let items = self.items("]")?;
                self.collection(".list", items)
            }
            Token::Operator("{") => {
                self.advance();
                self.dict()
            }
            _ => self.unexpected("an expression"),
        }
    }

    fn literal(&mut self, value: Value) -> Node<'a> {
        self.advance();
        self.constant(value)
    }

    fn items(&mut self, close: &'static str) -> Parsed<Vec<Node<'a>>> {
        let mut items = Vec::new();
        while !self.skip(close) {
            if !items.is_empty() {
                self.expect(",")?;
                if self.skip(close) {
                    break;
                }
            }
            items.push(self.expression()?);
        }
        Ok(items)
    }

    fn dict(&mut self) -> Parsed<Node<'a>> {
        let mut items = Vec::new();
        while !self.skip("}") {
            if !items.is_empty() {
                self.expect(",")?;
                if self.skip("}") {
                    break;
                }
            }
            items.push(self.expression()?);
            self.expect(":")?;
            items.push(self.expression()?);
        }
        self.collection(".dict", items)
    }

    /// A list, tuple or dict. Its items are arguments; what the filter is applied to means nothing.
    pub(crate) fn collection(&mut self, name: &'static str, items: Vec<Node<'a>>) -> Parsed<Node<'a>> {
        let nothing = self.constant(Value::from(()));
        self.filter(name, nothing, items)
    }

    pub(crate) fn postfix(&mut self, mut node: Node<'a>) -> Parsed<Node<'a>> {
        loop {
            node = match self.current() {
                Token::Operator(".") => self.attribute(node)?,
                Token::Operator("[") => self.subscript(node)?,
                Token::Operator("(") => self.call(node)?,
                _ => return Ok(node),
            };
        }
    }

    fn filters(&mut self, mut node: Node<'a>) -> Parsed<Node<'a>> {
        loop {
            node = match self.current() {
                Token::Operator("|") => self.named_filters(Some(node))?,
                Token::Name("is") => self.test(node)?,
                Token::Operator("(") => self.call(node)?,
                _ => return Ok(node),
            };
        }
    }

    /// `|name(...)`, as often as it comes; without a node the first filter takes what a block writes.
    pub(crate) fn named_filters(&mut self, mut node: Option<Node<'a>>) -> Parsed<Node<'a>> {
        let mut is_first = node.is_none();
        while is_first || self.skip("|") {
            is_first = false;
            let name = self.name_of("filter", super::environment::is_filter)?;
            let (args, height) = if matches!(self.current(), Token::Operator("(")) {
                self.arguments()?
            } else {
                (Vec::new(), 0)
            };
            node = Some(self.filter_with(name, node, args, height)?);
        }
        match node {
            Some(node) => Ok(node),
            None => self.unexpected("a filter"),
        }
    }

    /// `is name`, `is not name`, with or without an argument.
    fn test(&mut self, node: Node<'a>) -> Parsed<Node<'a>> {
        self.advance();
        let is_negated = self.skip_name("not");
        let name = self.name_of("test", super::environment::is_test)?;
        let (args, height) = match self.current() {
            Token::Operator("(") => self.arguments()?,
            Token::Name("else" | "or" | "and") => (Vec::new(), 0),
            Token::Name("is") => return self.fail("tests cannot be chained with `is`"),
            Token::Name(_) | Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Operator("[" | "{") => {
                let argument = self.primary()?;
                let argument = self.postfix(argument)?;
                (vec![CallArg::Pos(argument.expr)], argument.height)
            }
            _ => (Vec::new(), 0),
        };
        let height = node.height.max(height);
        let test = Test { name, expr: node.expr, args };
        let node = self.node(height, Expr::Test(Spanned::new(test, self.span())))?;
        if is_negated { self.negated(node) } else { Ok(node) }
    }

    pub(crate) fn constant(&self, value: Value) -> Node<'a> {
        Node { expr: Expr::Const(Spanned::new(Const { value }, self.span())), height: 1 }
    }

    /// The filter `name` over `node` and `rest`.
    pub(crate) fn filter(&mut self, name: &'a str, node: Node<'a>, rest: Vec<Node<'a>>) -> Parsed<Node<'a>> {
        let height = rest.iter().map(|n| n.height).max().unwrap_or(0);
        let args = rest.into_iter().map(|n| CallArg::Pos(n.expr)).collect();
        self.filter_with(name, Some(node), args, height)
    }

    pub(crate) fn filter_with(
        &mut self,
        name: &'a str,
        node: Option<Node<'a>>,
        args: Vec<CallArg<'a>>,
        height: usize,
    ) -> Parsed<Node<'a>> {
        let height = height.max(node.as_ref().map_or(0, |n| n.height));
        // The engine counts arguments in 16 bits.
        if args.len() > 30_000 {
            return self.fail("too many values in one expression");
        }
        let filter = Filter { name, expr: node.map(|n| n.expr), args };
        self.node(height, Expr::Filter(Spanned::new(filter, self.span())))
    }

    /// The target `ns.name` of an assignment.
    pub(crate) fn attribute_target(&self, id: &'a str, name: &'a str) -> Expr<'a> {
        let expr = Expr::Var(Spanned::new(Var { id }, self.span()));
        Expr::GetAttr(Spanned::new(GetAttr { expr, name }, self.span()))
    }
}
