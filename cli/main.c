#include <stdio.h>

int main(void)
{
    fprintf(stderr, "freezepoint: no command yet\n");
    return 2;
}
