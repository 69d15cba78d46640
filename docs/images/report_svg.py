"""Part of a page that `mixbit report` wrote, as one SVG: python3 report_svg.py report.html report.svg"""

import re
import sys
from pathlib import Path

WIDTH, HEIGHT = 980, 740

page = Path(sys.argv[1]).read_text(encoding="utf-8")
style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
header = re.search(r"<header>.*?</header>", page, re.DOTALL)[0]
bits = re.search(r'<section id="bits".*?</section>', page, re.DOTALL)[0]
bits = re.sub(r"<details.*?</details>", "", bits, flags=re.DOTALL)

# GitHub shows the picture on its own page: no part of the report may depend on what is around it.
Path(sys.argv[2]).write_text(
    f"""<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">
<foreignObject width="100%" height="100%">
<div xmlns="http://www.w3.org/1999/xhtml" class="page">
<style>{style}
.page {{ background: var(--paper); color: var(--ink); height: 100%; padding: 28px 32px; overflow: hidden;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }}
.page section {{ margin-top: 32px; }}
</style>
{header}
{bits}
</div>
</foreignObject>
</svg>
""",
    encoding="utf-8",
)
