"""The long battery: hundreds of hard strings that confirm the pre-tokenizer which the short one has chosen.

Most are made by rule, so that no length, order or neighbour is missed by chance. All are in NFC, as in the short one.
"""

from __future__ import annotations

import itertools
import unicodedata

_DIGITS = "12345678901234567890"
_QUOTES = ("'", "’", "ʼ", "`", "´")
_ENDINGS = ("s", "t", "re", "ve", "m", "ll", "d", "S", "T", "Re", "VE", "M", "lL", "D", "x", "ſ")
_SPACES = (" ", "\t", "\n", "\r")
_ODD_SPACES = "\u00a0\u1680\u2003\u2007\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff\u0085\u000b\u000c"

_SCRIPTS = (
    "今天天气很好，我们一起去公园散步吧。价格是￥1,299.00元。",
    "繁體中文測試：臺灣、香港、澳門。「你好」嗎？",
    "吾輩は猫である。名前はまだ無い。ﾊﾝｶｸ ＺＥＮＫＡＫＵ ㍿ ㊙ 々 ゝ",
    "대한민국의 수도는 서울이다. ㅎㅎㅎ ㅠㅠ 3.1운동",
    "اللغة العربية جميلة جدًّا؛ ٠١٢٣٤٥٦٧٨٩ ۰۱۲۳۴۵۶۷۸۹ ـــ «نص»",
    "می‌خواهم به خانه بروم. نمی‌دانم؟ گچپژ",
    "اُردُو زبان میں لکھا ہوا جملہ۔ ٹ ڈ ڑ ے",
    "עִבְרִית עם ניקוד: בְּרֵאשִׁית בָּרָא; צה״ל, ז׳בוטינסקי",
    "संस्कृतम्: सत्यमेव जयते। ॐ मणि॒ पद्मे॑ १२३४५ ज़िंदगी क्ष त्र ज्ञ",
    "বাংলাদেশের রাজধানী ঢাকা। ১২৩ ক্ষ র‍্যাব",
    "தமிழ்நாடு கோயம்புத்தூர் ௧௨௩ ஸ்ரீ",
    "తెలుగు అక్షరమాల ౧౨౩ ಕರ್ನಾಟಕ ೧೨೩ മലയാളം ൧൨൩ ക്ര്‍",
    "ગુજરાતી ૧૨૩ ਪੰਜਾਬੀ ੧੨੩ ଓଡ଼ିଆ ୧୨୩ සිංහල ශ්‍රී",
    "ภาษาไทยไม่มีช่องว่าง น้ำ เก้าอี้ ๑๒๓ ฿100",
    "ພາສາລາວ ໑໒໓ ភាសាខ្មែរ ១២៣ မြန်မာဘာသာ ၁၂၃ བོད་སྐད་ ༡༢༣",
    "ქართული ენა Ⴀ Ა ამბავი; Հայերեն լեզու և; ᏣᎳᎩ ꭰꭱ",
    "አማርኛ ፩፪፫ ትግርኛ። ⵜⴰⵎⴰⵣⵉⵖⵜ ߒߞߏ",
    "ἀρχὴ ἥμισυ παντός· Ἀθῆναι ᾳ ῷ ϗ ϰ ς σ Σ",
    "Съешь же ещё этих мягких французских булок, да выпей чаю № 5 — «ёлка»",
    "Ѳеодоръ Ѣ ѵ Ꙗко ꙋ ҂а҃ Ӏ ӏ ҧ",
    "Ὀδυσσεύς İstanbul ıI iİ ǆ ǅ Ǆ ŉ ß ẞ ﬀ ﬃ ĳ Ŀ",
    "Zażółć gęślą jaźń; Příliš žluťoučký kůň; Þórður; Ærøskøbing; Çağrı; Ștefan",
    "MÜNCHEN ÉCOLE STRAßE ПриветМир ΑθήναΝέα ŁódźGdańsk naÏVE",
    "Đặng Hữu Phước ăn phở ở Huế; Ữ ữ Ợ ợ",
    "ꦧꦱꦗꦮ ᬩᬮᬶ ᨅᨔ ᜊᜌ᜔ᜊᜌᜒᜈ᜔ ᠮᠣᠩᠭᠣᠯ ꓡꓲ ꆈꌠ ꯃꯩ",
    "𐌰𐌱𐌲 𐎠𐎡 𒀀𒁀 𓂀𓃠 𐐀𐐨 𞤀𞤢 𝔄𝔅 𝟘𝟙𝟚 𠀀𠀁 𪛖",
    "IPA: /ˈfəʊnɪtɪks/ [ʃʒθð] tʰ ɡ͡b ˥˩ ↗︎ ə˞",
)

_SYMBOLS = (
    "😀", "😀😀😀", "a😀b", " 😀 ", "👍🏻👍🏿", "👩‍💻", "👨‍👩‍👧‍👦!", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🇺🇸🇬🇧🇦",
    "0️⃣9️⃣*️⃣", "❤️‍🔥", "☕️☕︎", "🧑🏽‍🚀🧑🏽‍🚀", "🤷‍♀️",
    "♠♣♥♦", "→⇒⟶↔", "∑∏∫∮∂∇", "≤≥≠≈≡", "⌘⌥⇧⏎", "①②⑳㉑", "½⅓¾⅛", "x²y³z⁻¹", "H₂SO₄", "Ⅰ Ⅱ ⅳ Ⅿ", "℃ ℉ Å Ω µ",
    "┌─┬┐│├┼┤", "█▓▒░", "⠓⠑⠇⠇⠕", "♩♪♫♬", "☰☷䷀", "🀄🂡♔♟", "€$£¥₿₹", "±×÷‰‱", "…‥․", "“”„‟‘’‚‛", "«»‹›", "¿¡§¶",
    "⁉‼⁈", "〈〉《》【】〔〕", "、。・〜", "（）［］｛｝", "！？＠＃＄％",
)  # fmt: skip

_CODE = (
    "if (a&&b||!c) { x+=1; y<<=2; z>>>=3; }",
    "let f = |x: &mut Vec<u8>| -> Result<(), Box<dyn Error>> { Ok(()) };",
    "#include <stdio.h>\n#define MAX(a, b) ((a) > (b) ? (a) : (b))\nint main(void) { return 0; }\n",
    "x = {\"a\": [1, 2, 3], 'b': (None, True), **kw}  # comment\n",
    '@property\ndef name(self) -> str | None:\n\t"""Doc."""\n\treturn self._name\n\n\n',
    "SELECT a.*, COUNT(*) FROM t1 a LEFT JOIN t2 b ON a.id=b.id WHERE a.x>=10 GROUP BY 1;--x",
    "$ grep -rn 'foo' ./src | awk '{print $1}' > out.txt 2>&1 && echo \"done\"",
    "const {a, ...rest} = await fetch(`/api/${id}?q=${encodeURIComponent(q)}`);",
    "<div class='a b' style=\"color:#ff00ff\">&nbsp;<br/></div><!-- c -->",
    "\\begin{equation} \\frac{\\partial f}{\\partial x} = \\lim_{h\\to 0} e^{i\\pi} \\end{equation}",
    "| col1 | col2 |\n|:-----|-----:|\n| `a`  | **b** |\n",
    "- [ ] todo\n  - [x] done\n    1. one\n> quote\n\n```python\nprint(1)\n```\n",
    "0xDEADBEEF 0b1010 0o777 1_000_000 1e-9 .5 5. 1.5e+10f 100L 3j",
    "192.168.0.1:8080 fe80::1%eth0 a@b.co +49-(0)30/123456 2024-02-29T23:59:60Z",
    "C:\\Users\\x\\AppData ~/.config/../a /usr/bin/env:/bin file:///etc/passwd",
    '<?php echo "$x->y[0]"; ?>\r\n<% if x %>\r\n{{ y }}{% z %}\r\n',
    "aaaa-bbbb_cccc.dddd:eeee;ffff,gggg/hhhh\\iiii|jjjj~kkkk",
    "fooBar FooBAR fooBARBaz foo2Bar Foo_Bar __init__ --flag=-1 -O2 C++17 C# F# .NET",
)

_ODD = (
    "a\u0000b\u0000", "\ufffd", "a\ufffd\ufffdb", "\ufffd1\ufffd \ufffd", "\ue000\uf8ff",
    "a\ue123b", "\U000f0000\U0010fffd",
    "\u0001\u0002\u001f", "\u007f\u0080\u009f", "\u061c\u200e\u200f\u202a\u202c\u2066\u2069", "\u00ad\u034f\u180e",
    "\ufe0f\ufe0e", "\u0300alone", " \u0301\u0302", "\u20dd\u20e3", "\U000e0001\U000e0041", "\ufdd0\uffff",
    "o\u0335\u0336\u0337", "e\u0329\u0348\u032a", "\u0e33\u0eb3", "\uff9e\uff9f", "\u1100\u1161", "\u115f\u3164",
    "q\u0307\u0323", "A\u030b\u0300",
)  # fmt: skip


def _made() -> list[str]:
    strings = [""]
    strings += [_DIGITS[:n] for n in range(1, 13)] + [f"a{_DIGITS[:n]}b {_DIGITS[:n]}." for n in range(1, 9)]
    strings += [f"{word}{quote}{end}" for word in ("I", "they") for quote in _QUOTES[:2] for end in _ENDINGS]
    strings += [f"don{quote}t {quote}quoted{quote} rock {quote}n{quote} roll" for quote in _QUOTES]
    for length in (1, 2, 3):
        strings += [f"a{''.join(run)}b" for run in itertools.product(_SPACES, repeat=length)]
    strings += [f"{run}x{run}" for n in (4, 5, 8, 16, 17, 31, 64) for run in (" " * n, "\n" * n, "\t" * n)]
    strings += [f"a{space}b {space}{space}c{space}" for space in _ODD_SPACES]
    strings += [f"{mark * n} a{mark * n}b" for mark in "!.-=_*#/\\(){}<>|~^%$@&+,:;?" for n in (1, 3)]
    strings += [f"{mark}\n\n  {mark}word" for mark in ".,!?)}]\"'"]
    strings += [letter * n for letter in "aZé中ل" for n in (2, 7, 33)]
    return [*strings, *_SCRIPTS, *_SYMBOLS, *_CODE, *_ODD]


HARD_STRINGS: tuple[str, ...] = tuple(dict.fromkeys(text for text in _made() if unicodedata.is_normalized("NFC", text)))
"""At least two hundred; a character that llama.cpp's tables of Unicode and the original's class differently is not a
reason to refuse a model, so a difference here is reported as a warning."""
