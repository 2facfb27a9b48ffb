//! Operators.

use cel::common::ast::{CallExpr, Expr, IdedExpr, operators};

use super::{Lowered, Lowering, header_name, literals, number_literals};
use crate::expression::program::{Arithmetic, Comparison, Condition, Number, Test, Text, Time};

impl<'p> Lowering<'p, '_> {
    /// Lowers a call of an operator; nothing if it is none.
    pub(super) fn operator(&mut self, node: &'p IdedExpr, call: &'p CallExpr) -> Option<Option<Lowered>> {
        Some(match (call.func_name.as_str(), call.args.as_slice()) {
            (name @ (operators::LOGICAL_AND | operators::LOGICAL_OR), [_, _]) => self.logical(node, name),
            (operators::LOGICAL_NOT, [operand]) => self
                .condition(operand, "what follows `!`")
                .map(|condition| Lowered::Condition(Condition::joining(Test::Not(Box::new(condition))))),
            (operators::CONDITIONAL, [condition, yes, no]) => self.conditional(node, condition, yes, no),
            (operators::EQUALS, [left, right]) => self.comparison(node, Comparison::Equal, left, right),
            (operators::NOT_EQUALS, [left, right]) => {
                self.comparison(node, Comparison::NotEqual, left, right)
            }
            (operators::LESS, [left, right]) => self.comparison(node, Comparison::Less, left, right),
            (operators::LESS_EQUALS, [left, right]) => {
                self.comparison(node, Comparison::LessOrEqual, left, right)
            }
            (operators::GREATER, [left, right]) => self.comparison(node, Comparison::Greater, left, right),
            (operators::GREATER_EQUALS, [left, right]) => {
                self.comparison(node, Comparison::GreaterOrEqual, left, right)
            }
            (operators::ADD, [left, right]) => self.sum(node, left, right),
            (operators::SUBSTRACT, [left, right]) => self.arithmetic(Arithmetic::Subtract, left, right),
            (operators::MULTIPLY, [left, right]) => self.arithmetic(Arithmetic::Multiply, left, right),
            (operators::DIVIDE, [left, right]) => self.arithmetic(Arithmetic::Divide, left, right),
            (operators::MODULO, [left, right]) => self.arithmetic(Arithmetic::Remainder, left, right),
            (operators::NEGATE, [operand]) => self
                .number(operand, "what follows `-`")
                .map(|number| Lowered::Number(Number::Negated(Box::new(number)))),
            (operators::INDEX, [owner, key]) => self.index(owner, key),
            (operators::IN, [item, list]) => self.membership(node, item, list),
            _ => return None,
        })
    }

    /// A chain of `&&` or `||`, however the parser balanced it, as one list.
    fn logical(&mut self, node: &'p IdedExpr, operator: &str) -> Option<Lowered> {
        let mut conditions = Vec::new();
        let mut complete = true;
        let mut stack = vec![node];
        while let Some(node) = stack.pop() {
            match &node.expr {
                Expr::Call(CallExpr { func_name, target: None, args }) if func_name == operator => {
                    stack.extend(args.iter().rev());
                }
                _ => match self.condition(node, "what `&&` and `||` join") {
                    Some(condition) => conditions.push(condition),
                    None => complete = false,
                },
            }
        }
        let test = match operator {
            operators::LOGICAL_AND => Test::All(conditions.into()),
            _ => Test::Any(conditions.into()),
        };
        complete.then(|| Lowered::Condition(Condition::joining(test)))
    }

    fn conditional(
        &mut self,
        node: &'p IdedExpr,
        condition: &'p IdedExpr,
        yes: &'p IdedExpr,
        no: &'p IdedExpr,
    ) -> Option<Lowered> {
        let condition = self.condition(condition, "what stands before `?`");
        let (yes, no) = (self.node(yes), self.node(no));
        let condition = condition?;
        Some(match (yes?, no?) {
            (Lowered::Condition(yes), Lowered::Condition(no)) => {
                Lowered::Condition(Condition::joining(Test::If(Box::new([condition, yes, no]))))
            }
            (Lowered::Text(yes), Lowered::Text(no)) => {
                Lowered::Text(Text::If(Box::new((condition, yes, no))))
            }
            (Lowered::Number(yes), Lowered::Number(no)) => {
                Lowered::Number(Number::If(Box::new((condition, yes, no))))
            }
            (Lowered::Time(yes), Lowered::Time(no)) => {
                Lowered::Time(Time::If(Box::new((condition, yes, no))))
            }
            (yes, no) => {
                let message =
                    format!("what `:` separates must be of one type, not {} and {}", yes.name(), no.name());
                return self.refuse(node, message);
            }
        })
    }

    fn comparison(
        &mut self,
        node: &'p IdedExpr,
        comparison: Comparison,
        left: &'p IdedExpr,
        right: &'p IdedExpr,
    ) -> Option<Lowered> {
        let (left, right) = (self.node(left), self.node(right));
        let test = match (left?, right?) {
            (Lowered::Text(left), Lowered::Text(right)) => {
                Test::CompareTexts(comparison, Box::new([left, right]))
            }
            (Lowered::Number(left), Lowered::Number(right)) => {
                Test::CompareNumbers(comparison, Box::new([left, right]))
            }
            (Lowered::Time(left), Lowered::Time(right)) => {
                Test::CompareTimes(comparison, Box::new([left, right]))
            }
            (Lowered::Condition(left), Lowered::Condition(right)) => match comparison {
                Comparison::Equal => Test::Same(Box::new([left, right])),
                Comparison::NotEqual => {
                    let Lowered::Condition(same) = self.test(node, Test::Same(Box::new([left, right])))
                    else {
                        return None;
                    };
                    Test::Not(Box::new(same))
                }
                _ => return self.refuse(node, "true and false have no order"),
            },
            (
                left @ (Lowered::Text(_) | Lowered::Number(_)),
                right @ (Lowered::Text(_) | Lowered::Number(_)),
            ) => {
                let message = format!(
                    "{} cannot be compared with {}; `int(…)` makes a number of a text",
                    left.name(),
                    right.name()
                );
                return self.refuse(node, message);
            }
            (left, right) => {
                let message = format!("{} cannot be compared with {}", left.name(), right.name());
                return self.refuse(node, message);
            }
        };
        Some(self.test(node, test))
    }

    fn sum(&mut self, node: &'p IdedExpr, left: &'p IdedExpr, right: &'p IdedExpr) -> Option<Lowered> {
        let (left, right) = (self.node(left), self.node(right));
        match (left?, right?) {
            (Lowered::Text(left), Lowered::Text(right)) => {
                Some(Lowered::Text(Text::Joined(Box::new([left, right]))))
            }
            (Lowered::Number(left), Lowered::Number(right)) => {
                Some(Lowered::Number(Number::Calculated(Arithmetic::Add, Box::new([left, right]))))
            }
            (left, right) => self.refuse(
                node,
                format!("`+` joins texts or adds numbers, not {} and {}", left.name(), right.name()),
            ),
        }
    }

    fn arithmetic(
        &mut self,
        operation: Arithmetic,
        left: &'p IdedExpr,
        right: &'p IdedExpr,
    ) -> Option<Lowered> {
        let (left, right) =
            (self.number(left, "what is calculated with"), self.number(right, "what is calculated with"));
        Some(Lowered::Number(Number::Calculated(operation, Box::new([left?, right?]))))
    }

    pub(super) fn number(&mut self, node: &'p IdedExpr, what: &str) -> Option<Number> {
        match self.node(node)? {
            Lowered::Number(number) => Some(number),
            other => self.refuse(node, format!("{what} must be a number, but this is {}", other.name())),
        }
    }

    fn index(&mut self, owner: &'p IdedExpr, key: &'p IdedExpr) -> Option<Lowered> {
        match self.node(owner)? {
            Lowered::Headers => {
                let name = self.text(key, "the name of a header")?;
                Some(Lowered::Text(Text::Header(Box::new(header_name(name)))))
            }
            other => self.refuse(owner, format!("only `request.headers` takes `[…]`, not {}", other.name())),
        }
    }

    fn membership(&mut self, node: &'p IdedExpr, item: &'p IdedExpr, list: &'p IdedExpr) -> Option<Lowered> {
        let (item, list) = (self.node(item), self.node(list));
        let test = match (item?, list?) {
            (Lowered::Text(text), Lowered::Texts(texts)) => match literals(texts) {
                Ok(literals) => Test::AmongLiterals(text, literals),
                Err(texts) => Test::AmongTexts(text, texts.into()),
            },
            (Lowered::Number(number), Lowered::Numbers(numbers)) => match number_literals(&numbers) {
                Some(literals) => Test::AmongNumberLiterals(number, literals),
                None => Test::AmongNumbers(number, numbers.into()),
            },
            (Lowered::Text(text), Lowered::TextsAttribute(attribute)) => {
                Test::AmongAttribute(text, attribute)
            }
            (Lowered::Text(name), Lowered::Headers) => Test::HasHeader(header_name(name)),
            (Lowered::Text(_), Lowered::Text(_)) => {
                return self.refuse(node, "`in` looks into lists; `a.contains(b)` looks into texts");
            }
            (item, list) => return self.refuse(node, format!("{} is never in {}", item.name(), list.name())),
        };
        Some(self.test(node, test))
    }
}
