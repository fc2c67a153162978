"""Hard strings: two tokenizers that agree on all of them count as the same.

All are in Unicode's NFC form: some tokenizers normalise to it, which llama.cpp leaves to the caller.
"""

from __future__ import annotations

BATTERY: tuple[str, ...] = (
    "Hello world",
    " Hello world",
    "  two spaces before, two  inside, two after  ",
    # Runs of digits: one by one, in threes from the left or the right, or whole.
    "1 12 123 1234 12345 123456 1234567 12345678 123456789 1234567890",
    "3.14159 1,000,000 0x1F 1e-10 2024-11-22T18:27:59 v1.2.3 10²³ ½ Ⅻ ①② ٣٤٥٦ 四五六 १२३४",
    "abc123def456 x1y2z3 42nd A4 H2O $100 100% #1",
    # Contractions, in lower, upper and mixed case, and look-alikes.
    "I'm you're he's it'll we've they'd isn't can't o'clock rock 'n' roll '90s",
    "I'M YOU'RE HE'S IT'LL WE'VE THEY'D ISN'T I'Ve we'Ll 'Twas 'Sup d'accord l'été",
    "I’m you’re ‘quoted’ “double” «guillemets»",
    "'The end.' 'Do it!' 'Some say so.' 'My word,' 'Very well,' 'Let us go.' 'Really?' 'the 'mid 'dry",
    "Istanbul'da Ankara'nın 5'te",
    # Case changes within and between words.
    "camelCase PascalCase snake_case SCREAMING_SNAKE kebab-case HTTPServer iPhone McDonald ABCdef",
    "ÀÉÎ straße STRASSE ǅ ŉ ﬁ ﬂ Ωμέγα ΣΊΣΥΦΟΣ Привет МИР ЁЖ",
    # Punctuation, symbols and their runs.
    "!?!?!! ... …… --- ––– === *** ### @@@ ~~~ ``` '''''' \"\"\"\" ((([[[{{{}}}]]])))",
    "a+b=c; x<=y && y>=z || !w; p->q; a::b; $x @y #z %w ^v &u *t ~s `r` \\n \\t",
    "https://example.com/path?query=1&other=two#part user.name+tag@mail.example.org C:\\Users\\me",
    '<html><body class="x">&amp;</body></html> <tag/> [link](url) **bold** _it_ | a | b |',
    "€ £ ¥ ₹ ¢ © ® ™ § ¶ † ‡ • ← ↑ → ↓ ∀x∈ℝ: x²≥0 ∑∏∫√∞≈≠ ½¼",
    # Code, with its white space.
    "def f(x):\n    if x > 0:\n        return x ** 2\n\n    return -x\n",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\t// done\n",
    "x = 1;\n// note\ny();\n/* a */\n\n//\n./run\n/etc/\n\n/bin\n",
    "SELECT * FROM t WHERE a='b''c' AND d IS NOT NULL;\r\n",
    '{\n  "key": [1, 2.5, null, true],\n  "nested": {"a": "b"}\n}',
    "\tx\n\t\ty\n\t\t\tz\n    \t mixed",
    # White space alone and at every edge.
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\n\n\n\n",
    "\t",
    " \n",
    "\n ",
    " \n \n  \n   \n    x",
    "\r\n\r\n",
    "a\r\nb\rc\n",
    "trailing   \n\n  ",
    "word \n\n word\n \n\tword  \t\n",
    "a b  c   d    e     f      g       h        i         j",
    "no-break\u00a0space thin\u2009space ideographic\u3000space zero\u200bwidth soft\u00adhyphen",
    "line\u2028paragraph\u2029",
    # Scripts without spaces, right-to-left, with combining vowel signs.
    "我想在apple工作1314151天～ 你好，世界！「引用」『二重』",
    "日本語の文章です。カタカナとひらがな、ｶﾅ、全角ＡＢＣ１２３。東京都2024年",
    "한국어 문장입니다. 가나다라 ㄱㄴㄷ ㅋㅋㅋ",
    "مرحبا بالعالم، كيف حالك؟ السَّلَامُ عَلَيْكُمْ ٪١٢",
    "שלום עולם! מה שלומך? שָׁלוֹם",
    "नमस्ते दुनिया! क्या हाल है? हिन्दी में लिखा हुआ वाक्य। क्षत्रिय",
    "বাংলা ভাষা தமிழ் மொழி తెలుగు ಕನ್ನಡ മലയാളം ગુજરાતી ਪੰਜਾਬੀ සිංහල",
    "สวัสดีชาวโลก ภาษาไทย ລາວ កាន់តែពិសេសអាច မြန်မာ བོད་",
    "Ελληνικά και Русский язык, нещо на Български, Українська їжа, Հայերեն, ქართული, አማርኛ",
    "Tiếng Việt có dấu, čeština ďábel, łódź, ğüşiöç, ñandú, øre, þorn, œuvre",
    # Combining marks that no single character stands for.
    "x̂ ŷ̃ q̃ m̄ n̈ ṽ̇ Z̷a̵l̶g̸o̴ e̞ ɔ̃ r̥",
    # Emoji: plain, with skin tone, joined, flags, keycaps, variation selectors.
    "🚀 😀😂🤣 👍🏽👋🏿 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇯🇵 1️⃣#️⃣ ❤️ ☺︎ 🦙🦙 😶‍🌫️ (emoji)🎉!",
    "🤖text👾between🎈emoji🚗and words",
    "𝕬𝖑𝖕𝖍𝖆 𝒃𝒆𝒕𝒂 𝟙𝟚𝟛 𐍈 𠮷野家 𓀀",
    "\u0001\u0002 control \u007f \u0085 next",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis aaaaaaaaaaaaaaaaaaaaaaaaa",
    "The year 1984 was 40 years ago; she's 5'11\" tall & weighs 63.5kg (140lbs), isn't she?",
    "ZWJ\u200dZWNJ\u200cBOM\ufeffRLM\u200f",
)


def special_strings(tokens: list[str]) -> list[str]:
    """Strings with special ``tokens`` alone, within text and beside each other."""
    strings: list[str] = []
    for token in tokens:
        strings += [token, f"a{token}b", f"Hello, {token} world{token}\n"]
    if tokens:
        strings.append("".join(tokens))
    return strings
