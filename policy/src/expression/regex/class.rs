//! Character classes and escapes.

use super::translate::{next, push_literal};

/// What follows a `[`, through its `]`.
pub fn bracketed(rest: &mut &str) -> Result<String, String> {
    let unclosed = || "a `[` is never closed".to_owned();
    let mut output = String::from("[");
    if let Some(after) = rest.strip_prefix('^') {
        *rest = after;
        output.push('^');
    }
    let mut first = true;
    loop {
        if !first && let Some(after) = rest.strip_prefix(']') {
            *rest = after;
            output.push(']');
            return Ok(output);
        }
        first = false;
        if rest.is_empty() {
            return Err(unclosed());
        }
        if let Some(class) = posix(rest)? {
            output.push_str(&class);
            continue;
        }
        if let Some(after) = rest.strip_prefix('\\') {
            let mut escape = after;
            if let Some(class) = escaped(&mut escape)? {
                *rest = escape;
                output.push_str(&class);
                continue;
            }
        }
        let low = member(rest)?;
        let mut high = low;
        if let Some(after) = rest.strip_prefix('-')
            && !after.starts_with(']')
        {
            *rest = after;
            high = member(rest)?;
            if high < low {
                return Err(format!("the range `{low}-{high}` ends before it begins"));
            }
        }
        push_range(&mut output, low, high);
    }
}

/// One character of a class.
fn member(rest: &mut &str) -> Result<char, String> {
    match next(rest) {
        None => Err("a `[` is never closed".to_owned()),
        Some('\\') => character(rest),
        Some(character) => Ok(character),
    }
}

fn push_range(output: &mut String, low: char, high: char) {
    push_literal(output, low);
    if low != high {
        output.push('-');
        push_literal(output, high);
    }
}

fn ranges(negative: bool, ranges: &[(char, char)]) -> String {
    let mut output = String::from(if negative { "[^" } else { "[" });
    for (low, high) in ranges {
        push_range(&mut output, *low, *high);
    }
    output.push(']');
    output
}

/// `[:alpha:]`, `[:^alpha:]`
fn posix(rest: &mut &str) -> Result<Option<String>, String> {
    let Some((name, after)) = rest.strip_prefix("[:").and_then(|inside| inside.split_once(":]")) else {
        return Ok(None);
    };
    let (name, negative) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
    let class: &[(char, char)] = match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\x7f')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => DIGIT,
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => WORD,
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return Err(format!("there is no class `{name}`")),
    };
    *rest = after;
    Ok(Some(ranges(negative, class)))
}

const DIGIT: &[(char, char)] = &[('0', '9')];
/// Without the vertical tab.
const SPACE: &[(char, char)] = &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')];
const WORD: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];

/// `d`, `pN`, `p{Greek}` and their like, after a backslash; nothing if it is another escape.
pub fn escaped(rest: &mut &str) -> Result<Option<String>, String> {
    let mut after = *rest;
    let Some(letter) = next(&mut after) else { return Ok(None) };
    let class = match letter {
        'd' | 'D' => ranges(letter == 'D', DIGIT),
        's' | 'S' => ranges(letter == 'S', SPACE),
        'w' | 'W' => ranges(letter == 'W', WORD),
        'p' | 'P' => unicode(&mut after, letter == 'P')?,
        _ => return Ok(None),
    };
    *rest = after;
    Ok(Some(class))
}

fn unicode(rest: &mut &str, negative: bool) -> Result<String, String> {
    let name = if let Some(inside) = rest.strip_prefix('{') {
        let (name, after) = inside.split_once('}').ok_or("a `\\p{` is never closed")?;
        *rest = after;
        name
    } else {
        let whole = *rest;
        next(rest);
        whole.strip_suffix(*rest).unwrap_or_default()
    };
    let (name, negative) = name.strip_prefix('^').map_or((name, negative), |name| (name, !negative));
    let inside = match name {
        "Any" => "\\p{Any}".to_owned(),
        // Not the code points that mean nothing yet, and no surrogates, which UTF-8 lacks.
        "C" => "\\p{Cc}\\p{Cf}\\p{Co}".to_owned(),
        _ if CATEGORIES.contains(&name) => format!("\\p{{gc={name}}}"),
        _ if SCRIPTS.binary_search(&name).is_ok() => format!("\\p{{sc={name}}}"),
        _ => {
            return Err(format!(
                "there is no Unicode class `{name}`; there are categories such as `L` and `Lu`, and scripts such as `Greek`"
            ));
        }
    };
    Ok(format!("[{}{inside}]", if negative { "^" } else { "" }))
}

/// A single character, after a backslash.
pub fn character(rest: &mut &str) -> Result<char, String> {
    let Some(first) = next(rest) else { return Err("it ends with a backslash".to_owned()) };
    let unknown = || format!("there is no escape `\\{first}`");
    match first {
        'a' => Ok('\x07'),
        'f' => Ok('\x0c'),
        'n' => Ok('\n'),
        'r' => Ok('\r'),
        't' => Ok('\t'),
        'v' => Ok('\x0b'),
        'x' => {
            let code = hexadecimal(rest).ok_or_else(unknown)?;
            char::from_u32(code).ok_or_else(|| format!("there is no character U+{code:04X}"))
        }
        '0'..='7' => octal(first, rest).ok_or_else(unknown),
        _ if first.is_ascii() && !first.is_ascii_alphanumeric() => Ok(first),
        _ => Err(unknown()),
    }
}

/// Up to three digits; one alone is a reference to a group, which RE2 does not have, unless it is 0.
fn octal(first: char, rest: &mut &str) -> Option<char> {
    let mut value = first.to_digit(8)?;
    let mut digits = 1;
    while digits < 3
        && let Some(digit) = rest.chars().next().and_then(|character| character.to_digit(8))
    {
        next(rest);
        value = value * 8 + digit;
        digits += 1;
    }
    if digits == 1 && first != '0' { None } else { char::from_u32(value) }
}

/// Two digits, or any number of them in braces.
fn hexadecimal(rest: &mut &str) -> Option<u32> {
    let digits = match rest.strip_prefix('{') {
        Some(inside) => {
            let (digits, after) = inside.split_once('}')?;
            *rest = after;
            digits
        }
        None => {
            let (digits, after) = rest.split_at_checked(2)?;
            *rest = after;
            digits
        }
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if plain { u32::from_str_radix(digits, 16).ok() } else { None }
}

pub const CATEGORIES: [&str; 34] = [
    "Cc", "Cf", "Co", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl", "No", "P",
    "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zp", "Zs",
];

/// RE2's, in order.
pub const SCRIPTS: [&str; 163] = [
    "Adlam",
    "Ahom",
    "Anatolian_Hieroglyphs",
    "Arabic",
    "Armenian",
    "Avestan",
    "Balinese",
    "Bamum",
    "Bassa_Vah",
    "Batak",
    "Bengali",
    "Bhaiksuki",
    "Bopomofo",
    "Brahmi",
    "Braille",
    "Buginese",
    "Buhid",
    "Canadian_Aboriginal",
    "Carian",
    "Caucasian_Albanian",
    "Chakma",
    "Cham",
    "Cherokee",
    "Chorasmian",
    "Common",
    "Coptic",
    "Cuneiform",
    "Cypriot",
    "Cypro_Minoan",
    "Cyrillic",
    "Deseret",
    "Devanagari",
    "Dives_Akuru",
    "Dogra",
    "Duployan",
    "Egyptian_Hieroglyphs",
    "Elbasan",
    "Elymaic",
    "Ethiopic",
    "Georgian",
    "Glagolitic",
    "Gothic",
    "Grantha",
    "Greek",
    "Gujarati",
    "Gunjala_Gondi",
    "Gurmukhi",
    "Han",
    "Hangul",
    "Hanifi_Rohingya",
    "Hanunoo",
    "Hatran",
    "Hebrew",
    "Hiragana",
    "Imperial_Aramaic",
    "Inherited",
    "Inscriptional_Pahlavi",
    "Inscriptional_Parthian",
    "Javanese",
    "Kaithi",
    "Kannada",
    "Katakana",
    "Kawi",
    "Kayah_Li",
    "Kharoshthi",
    "Khitan_Small_Script",
    "Khmer",
    "Khojki",
    "Khudawadi",
    "Lao",
    "Latin",
    "Lepcha",
    "Limbu",
    "Linear_A",
    "Linear_B",
    "Lisu",
    "Lycian",
    "Lydian",
    "Mahajani",
    "Makasar",
    "Malayalam",
    "Mandaic",
    "Manichaean",
    "Marchen",
    "Masaram_Gondi",
    "Medefaidrin",
    "Meetei_Mayek",
    "Mende_Kikakui",
    "Meroitic_Cursive",
    "Meroitic_Hieroglyphs",
    "Miao",
    "Modi",
    "Mongolian",
    "Mro",
    "Multani",
    "Myanmar",
    "Nabataean",
    "Nag_Mundari",
    "Nandinagari",
    "New_Tai_Lue",
    "Newa",
    "Nko",
    "Nushu",
    "Nyiakeng_Puachue_Hmong",
    "Ogham",
    "Ol_Chiki",
    "Old_Hungarian",
    "Old_Italic",
    "Old_North_Arabian",
    "Old_Permic",
    "Old_Persian",
    "Old_Sogdian",
    "Old_South_Arabian",
    "Old_Turkic",
    "Old_Uyghur",
    "Oriya",
    "Osage",
    "Osmanya",
    "Pahawh_Hmong",
    "Palmyrene",
    "Pau_Cin_Hau",
    "Phags_Pa",
    "Phoenician",
    "Psalter_Pahlavi",
    "Rejang",
    "Runic",
    "Samaritan",
    "Saurashtra",
    "Sharada",
    "Shavian",
    "Siddham",
    "SignWriting",
    "Sinhala",
    "Sogdian",
    "Sora_Sompeng",
    "Soyombo",
    "Sundanese",
    "Syloti_Nagri",
    "Syriac",
    "Tagalog",
    "Tagbanwa",
    "Tai_Le",
    "Tai_Tham",
    "Tai_Viet",
    "Takri",
    "Tamil",
    "Tangsa",
    "Tangut",
    "Telugu",
    "Thaana",
    "Thai",
    "Tibetan",
    "Tifinagh",
    "Tirhuta",
    "Toto",
    "Ugaritic",
    "Vai",
    "Vithkuqi",
    "Wancho",
    "Warang_Citi",
    "Yezidi",
    "Yi",
    "Zanabazar_Square",
];
