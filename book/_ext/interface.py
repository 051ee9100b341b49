"""What the build itself says around the words of a page, in each language of the book."""

from __future__ import annotations

from sphinx.application import Sphinx

ENGLISH = {
    # Under the title of a chapter
    "reading": "{} minutes to read",
    "download": "Download the notebook",
    "run on": "Run it on {}",
    "run at home": "Run it at home",
    "begin": "Begin with chapter 1",
    # For those who cannot see the page
    "book": "The book",
    "pages": "Its pages",
    # Labels of folded cells, which stand in the notebooks
    "The solution in code": "The solution in code",
    "The answer in code": "The answer in code",
    # The plain edition
    "setup": "Installs what this notebook needs, where it is missing.",
    "numbers": "Numbers that the text quotes",
    "needs": "Uses {} of the cells above: run those first.",
    "and": ", ",
    "lab": "On the page of the book you can take hold of this figure.",
    "lab link": "On [the page of the book]({}) you can take hold of this figure.",
    "references": "References",
    # The EPUB
    "index": "Index",
}
CHINESE = {
    "reading": "阅读约需{}分钟",
    "download": "下载笔记本",
    "run on": "在{}上运行",
    "run at home": "在自己的电脑上运行",
    "begin": "从第1章读起",
    "book": "全书目录",
    "pages": "展开其中各页",
    "The solution in code": "解答的代码",
    "The answer in code": "答案的代码",
    "setup": "安装本笔记本需要而这里还没有的软件包。",
    "numbers": "正文引用的数",
    "needs": "要用到上面单元格里的{}，请先运行那些单元格。",
    "and": "、",
    "lab": "在书的网页上，这张图可以动手操作。",
    "lab link": "在[书的网页]({})上，这张图可以动手操作。",
    "references": "参考文献",
    "index": "索引",
}
# What the theme and Sphinx say in English, or in other words than the book
AROUND = {
    "Toggle primary sidebar": "打开或收起章节目录",
    "Toggle secondary sidebar": "打开或收起本页目录",
    "System Settings": "跟随系统",
    "Color mode": "颜色模式",
    "Main": "主要导航",
    "Page": "本页",
    "Repository": "代码仓库",
    "Open issue": "报告问题",
    "创建议题": "报告问题",
    "列印成 PDF": "打印成PDF",
    "源码库": "代码仓库",
    "Source repositories": "代码仓库",
    "Suggest edit": "建议修改",
    "Show source": "查看源文件",
    "Link to this heading": "链接到这个标题",
    "Link to this image": "链接到这张图",
    "Link to this equation": "链接到这个公式",
    "Link to this term": "链接到这个术语",
    "Link to this definition": "链接到这个定义",
    "Link to this table": "链接到这张表",
}
WORDS = {"en": ENGLISH, "zh_CN": CHINESE}
A_MINUTE = {"en": 200, "zh_CN": 350}  # words, and Chinese characters


def says(app: Sphinx) -> dict[str, str]:
    return WORDS[app.config.language]
