//! The spec of a module's options, as constant data.
//!
//! One spec is used for coercion here, validation on the controller and the documentation, so the three
//! cannot contradict each other.

/// The type of an option, under Ansible's own name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Str,
    Bool,
    Int,
    Float,
    Path,
    List,
    Dict,
    Raw,
    /// A size such as `10G`, given to the module as a number of bytes.
    Bytes,
    /// A float that is a span of time, 0 or more.
    Seconds,
    /// An int of 0 or more.
    Count,
    /// An int of 1 or more.
    Positive,
    /// A path that begins with a slash.
    AbsolutePath,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Str => "str",
            Kind::Bool => "bool",
            Kind::Int | Kind::Count | Kind::Positive => "int",
            Kind::Float | Kind::Seconds => "float",
            Kind::Path | Kind::AbsolutePath => "path",
            Kind::List => "list",
            Kind::Dict => "dict",
            Kind::Raw => "raw",
            Kind::Bytes => "bytes",
        }
    }

    /// Returns the name of the restriction beyond Ansible's own type, which the controller checks as well.
    pub fn form(self) -> Option<&'static str> {
        match self {
            Kind::Seconds => Some("seconds"),
            Kind::Count => Some("count"),
            Kind::Positive => Some("positive"),
            Kind::AbsolutePath => Some("absolute_path"),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    None,
    Str(&'static str),
    Bool(bool),
    Int(i64),
    Float(f64),
    List(&'static [&'static str]),
}

/// An option. Built by `Opt::new("name", Kind::Str)` and the methods below.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    pub name: &'static str,
    pub kind: Kind,
    pub about: &'static [&'static str],
    pub required: bool,
    pub default: Default,
    pub choices: &'static [&'static str],
    pub aliases: &'static [&'static str],
    pub secret: bool,
    pub elements: Option<Kind>,
    /// Sub-options of a dict, or of each dict of a list.
    pub options: &'static [Opt],
}

impl Opt {
    pub const fn new(name: &'static str, kind: Kind) -> Opt {
        Opt {
            name,
            kind,
            about: &[],
            required: false,
            default: Default::None,
            choices: &[],
            aliases: &[],
            secret: false,
            elements: None,
            options: &[],
        }
    }

    pub const fn about(mut self, about: &'static [&'static str]) -> Opt {
        self.about = about;
        self
    }

    pub const fn required(mut self) -> Opt {
        self.required = true;
        self
    }

    pub const fn default(mut self, default: Default) -> Opt {
        self.default = default;
        self
    }

    pub const fn choices(mut self, choices: &'static [&'static str]) -> Opt {
        self.choices = choices;
        self
    }

    pub const fn aliases(mut self, aliases: &'static [&'static str]) -> Opt {
        self.aliases = aliases;
        self
    }

    /// Sets Ansible's `no_log`: nothing that is printed contains the value.
    pub const fn secret(mut self) -> Opt {
        self.secret = true;
        self
    }

    pub const fn elements(mut self, elements: Kind) -> Opt {
        self.elements = Some(elements);
        self
    }

    pub const fn options(mut self, options: &'static [Opt]) -> Opt {
        self.options = options;
        self
    }
}

/// A rule between options.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    MutuallyExclusive(&'static [&'static str]),
    RequiredTogether(&'static [&'static str]),
    RequiredOneOf(&'static [&'static str]),
    /// `(option, value, needed)`: all of `needed` are required when `option` has `value`.
    RequiredIf(&'static str, &'static str, &'static [&'static str]),
    /// As `RequiredIf`, but one of them is enough.
    RequiredIfAny(&'static str, &'static str, &'static [&'static str]),
    RequiredBy(&'static str, &'static [&'static str]),
}

/// How far a module supports check mode or diff mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Full,
    None,
}

/// A documented key of the result.
#[derive(Clone, Copy, Debug)]
pub struct Return {
    pub name: &'static str,
    pub about: &'static str,
    /// When it is returned, in Ansible's words: `always`, `success`, `failure`, ...
    pub returned: &'static str,
    pub kind: Kind,
    /// An example, as JSON text; empty for none.
    pub sample: &'static str,
    pub contains: &'static [Return],
}

impl Return {
    pub const fn new(
        name: &'static str,
        kind: Kind,
        returned: &'static str,
        about: &'static str,
    ) -> Return {
        Return { name, about, returned, kind, sample: "", contains: &[] }
    }

    pub const fn sample(mut self, json: &'static str) -> Return {
        self.sample = json;
        self
    }

    pub const fn contains(mut self, contains: &'static [Return]) -> Return {
        self.contains = contains;
        self
    }
}

/// The spec of a module: its name, its options and its documentation.
///
/// Options and returned keys come in groups, so that those which several modules share are
/// written once.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    pub name: &'static str,
    pub short: &'static str,
    pub about: &'static [&'static str],
    pub version_added: &'static str,
    pub options: &'static [&'static [Opt]],
    pub rules: &'static [Rule],
    pub check_mode: Support,
    pub diff_mode: Support,
    pub notes: &'static [&'static str],
    /// Full names of other modules.
    pub seealso: &'static [&'static str],
    /// Tasks, as YAML text. Tests run them.
    pub examples: &'static str,
    pub returns: &'static [&'static [Return]],
}

impl Module {
    pub fn all_options(&self) -> impl Iterator<Item = &'static Opt> + use<> {
        self.options.iter().flat_map(|group| group.iter())
    }
}
