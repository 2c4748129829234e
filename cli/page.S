/* The page of `points --report`, as cli/report.c puts it together. */
    .section .rodata
    .globl page_html, page_css, page_js, page_html_size, page_css_size, page_js_size
page_html:
    .incbin "cli/page.html"
0:
    .balign 8
page_html_size:
    .quad 0b - page_html
page_css:
    .incbin "cli/page.css"
1:
    .balign 8
page_css_size:
    .quad 1b - page_css
page_js:
    .incbin "cli/page.js"
2:
    .balign 8
page_js_size:
    .quad 2b - page_js

    .section .note.GNU-stack, "", @progbits
