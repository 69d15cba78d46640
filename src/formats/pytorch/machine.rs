//! The machine that reads a pickle of tensors, protocol 2. What it does not know it refuses by name.

use std::collections::BTreeMap;

use super::value::{Containers, Known, Value};

/// Most tuples, lists and dicts of a pickle; a tensor has six.
const MAX_CONTAINERS: usize = 1 << 22;

type Result<T> = std::result::Result<T, String>;

/// Reads the value that `pickle` stands for, and what its containers hold.
///
/// # Errors
/// A text, where the pickle is damaged, or names or does what a pickle of tensors does not.
pub(crate) fn read(pickle: &[u8]) -> Result<(Value, Containers)> {
    let mut machine = Machine {
        rest: pickle,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        containers: Containers::default(),
    };
    loop {
        let [code] = machine.take()?;
        if code == b'.' {
            return Ok((machine.pop()?, machine.containers));
        }
        machine.step(code)?;
        if machine.containers.len() > MAX_CONTAINERS {
            return Err(format!("has more than {MAX_CONTAINERS} tuples and lists"));
        }
    }
}

struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Value>,
    containers: Containers,
}

impl<'a> Machine<'a> {
    /// Takes `N` bytes of the pickle.
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or("ends in the middle")?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn take_slice(&mut self, length: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or("ends in the middle")?;
        self.rest = rest;
        Ok(bytes)
    }

    fn take_text(&mut self, length: usize) -> Result<Value> {
        let text =
            std::str::from_utf8(self.take_slice(length)?).map_err(|_| "has a text that is no UTF-8")?;
        Ok(Value::Text(text.into()))
    }

    fn take_line(&mut self) -> Result<&'a str> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or("ends in the middle")?;
        let line = self.take_slice(end + 1)?;
        std::str::from_utf8(&line[..end]).map_err(|_| "has a name that is no UTF-8".to_owned())
    }

    fn pop(&mut self) -> Result<Value> {
        let is_above_mark = self.marks.last().is_none_or(|mark| self.stack.len() > *mark);
        self.stack.pop().filter(|_| is_above_mark).ok_or_else(|| "takes what is not there".to_owned())
    }

    /// Takes the values above the last mark.
    fn pop_marked(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().ok_or("takes what is not there")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn step(&mut self, code: u8) -> Result<()> {
        match code {
            0x80 => return self.protocol(),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool),
            b'G' => {
                self.take::<8>()?;
                self.push(Value::Float);
            }
            b'J' | b'K' | b'M' | 0x8a => {
                let number = self.integer(code)?;
                self.push(Value::Int(number));
            }
            b'X' | b'T' => {
                let length = u32::from_le_bytes(self.take()?) as usize;
                let text = self.take_text(length)?;
                self.push(text);
            }
            b'U' => {
                let [length] = self.take()?;
                let text = self.take_text(length.into())?;
                self.push(text);
            }
            b'}' => {
                let dict = self.containers.add(Vec::new());
                self.push(Value::Dict(dict));
            }
            b']' => {
                let list = self.containers.add(Vec::new());
                self.push(Value::List(list));
            }
            b')' | b't' | 0x85 | 0x86 | 0x87 => {
                let items = self.tuple(code)?;
                let tuple = self.containers.add(items);
                self.push(Value::Tuple(tuple));
            }
            b'q' | b'r' | b'h' | b'j' => return self.remember(code),
            b'a' | b'e' | b's' | b'u' => return self.fill(code),
            b'c' => return self.name(),
            b'Q' => {
                let id = self.pop()?;
                let storage = self.containers.storage(&id);
                self.push(storage.ok_or("refers to something that is no storage of numbers")?);
            }
            b'R' => return self.call(),
            b'b' => return self.build(),
            _ => {
                return Err(format!(
                    "has the instruction 0x{code:02x}, which pickles of tensors do not have"
                ));
            }
        }
        Ok(())
    }

    fn protocol(&mut self) -> Result<()> {
        match self.take()? {
            [2] => Ok(()),
            [other] => Err(format!("is of protocol {other}, and torch.save writes 2")),
        }
    }

    fn integer(&mut self, code: u8) -> Result<i64> {
        Ok(match code {
            b'J' => i32::from_le_bytes(self.take()?).into(),
            b'K' => self.take::<1>()?[0].into(),
            b'M' => u16::from_le_bytes(self.take()?).into(),
            _ => {
                let [length] = self.take()?;
                let bytes = self.take_slice(length.into())?;
                let mut wide = [if bytes.last().is_some_and(|byte| *byte > 127) { 0xff } else { 0 }; 8];
                let place = wide.get_mut(..bytes.len()).ok_or("has a number of more than 64 bits")?;
                place.copy_from_slice(bytes);
                i64::from_le_bytes(wide)
            }
        })
    }

    fn tuple(&mut self, code: u8) -> Result<Vec<Value>> {
        match code {
            b')' => Ok(Vec::new()),
            b't' => self.pop_marked(),
            _ => {
                let mut items: Vec<Value> = (0x85..=code).map(|_| self.pop()).collect::<Result<_>>()?;
                items.reverse();
                Ok(items)
            }
        }
    }

    /// Remembers the value on top under a number, or puts a remembered one there.
    fn remember(&mut self, code: u8) -> Result<()> {
        let number = match code {
            b'q' | b'h' => self.take::<1>()?[0].into(),
            _ => u32::from_le_bytes(self.take()?),
        };
        if code == b'h' || code == b'j' {
            let value = self.memo.get(&number).cloned().ok_or("refers to a value that is not there")?;
            self.push(value);
            return Ok(());
        }
        let top = self.stack.last().cloned().ok_or("takes what is not there")?;
        self.memo.insert(number, top);
        Ok(())
    }

    /// Puts values into the list or dict below them.
    fn fill(&mut self, code: u8) -> Result<()> {
        let values = match code {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_marked()?,
        };
        match (code, self.stack.last()) {
            (b'a' | b'e', Some(Value::List(list))) => self.containers.extend(*list, values),
            (b's' | b'u', Some(Value::Dict(dict))) if values.len().is_multiple_of(2) => {
                self.containers.extend(*dict, values);
            }
            _ => return Err("puts values into something that is no list or dict".to_owned()),
        }
        Ok(())
    }

    fn name(&mut self) -> Result<()> {
        let (module, name) = (self.take_line()?, self.take_line()?);
        let known = Known::find(module, name).ok_or_else(|| {
            format!("names `{module}.{name}`, which is no part of tensors: nothing of it is called or read")
        })?;
        self.push(Value::Known(known));
        Ok(())
    }

    fn call(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments) = arguments else { return Err("calls without a tuple".to_owned()) };
        let made = match function {
            Value::Known(Known::OrderedDict) if self.containers.get(arguments).is_empty() => {
                Some(Value::Dict(self.containers.add(Vec::new())))
            }
            Value::Known(Known::RebuildTensor) => self.containers.tensor(arguments),
            Value::Known(Known::RebuildParameter) => {
                let arguments = self.containers.get(arguments);
                arguments.first().filter(|value| matches!(value, Value::Tensor(_))).cloned()
            }
            _ => None,
        };
        self.push(made.ok_or("makes something that is no tensor, or one of impossible sizes")?);
        Ok(())
    }

    /// Leaves out the attributes of a dict, which modules keep their versions in.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        match self.stack.last() {
            Some(Value::Dict(_)) => Ok(()),
            _ => Err("sets attributes of something that is no dict".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tensor_is_refused() {
        for (pickle, expected) in [
            (&b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."[..], "names `os.system`"),
            (b"\x80\x02cbuiltins\neval\n.", "names `builtins.eval`"),
            (b"\x80\x02ctorch\nload\n.", "names `torch.load`"),
            (b"\x80\x04.", "protocol 4"),
            (b"\x80\x02}", "ends in the middle"),
            (b"\x80\x02.", "takes what is not there"),
            (b"\x80\x02X\xff\xff\xff\xffa.", "ends in the middle"),
            (b"\x80\x02K\x01Q.", "no storage"),
            (b"\x80\x02h\x01.", "not there"),
            (b"\x80\x02(u.", "no list or dict"),
            (b"\x80\x02N(0.", "instruction 0x30"),
            (b"\x80\x02\x8a\x09\x01\x01\x01\x01\x01\x01\x01\x01\x01.", "more than 64 bits"),
            (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "no tensor"),
            (b"\x80\x02K\x01}b.", "no dict"),
            (b"", "ends in the middle"),
        ] {
            let error = read(pickle).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn numbers_of_every_width_are_read() {
        let pickle = b"\x80\x02(J\xff\xff\xff\xffK\xffM\xff\xff\x8a\x01\x80\x8a\x03\x00\x00\x01t.";
        let (value, containers) = read(pickle).unwrap();
        let Value::Tuple(tuple) = value else { panic!("{value:?}") };
        let numbers: Vec<i64> = containers
            .get(tuple)
            .iter()
            .map(|item| if let Value::Int(number) = item { *number } else { 0 })
            .collect();
        assert_eq!(numbers, [-1, 255, 65535, -128, 65536]);
    }
}
