# The client's latency over time, as scripts/demo-migration has it: one panel a way.
#   gnuplot -e "out='FILE.svg'; ways=2; files='a b'; marks='ma mb'; titles='x|y'; seconds=30"
set terminal svg size 1100,90+310*ways dynamic background rgb 'white' font 'sans-serif,13'
set output out
set multiplot layout ways,1 title heading font 'sans-serif,16' margins 0.09,0.975,(ways > 1 ? 0.08 : 0.15),(ways > 1 ? 0.87 : 0.78) spacing 0.14

set logscale y
set yrange [bottom:top]
set xrange [0:seconds]
set ylabel 'latency' offset 1,0
set ytics ('10 µs' 0.01, '100 µs' 0.1, '1 ms' 1, '10 ms' 10, '100 ms' 100, '1 s' 1000, '10 s' 10000)
set mytics 10
set grid ytics lc rgb '#dddddd' lw 1 back
set border 3 lc rgb '#666666'
set tics nomirror textcolor rgb '#444444'
set key off
set style fill solid 1.0 noborder
colours = "#2a78b5 #d95f30"
pale = "#cfe3f2 #f9dccf"

do for [at = 1:ways] {
    mark = word(marks, at)
    set title word(titles, at) offset 0,-0.3 textcolor rgb word(colours, at) font 'sans-serif:Bold,14'
    set xlabel (at == ways ? 'seconds; shaded: a move, from the command to its end, with the longest time between two answers' : '')
    plot mark using 1:(bottom):1:2:(bottom):(top) with boxxyerror fc rgb word(pale, at), \
        word(files, at) using 1:3:4 with filledcurves fc rgb word(colours, at) fs transparent solid 0.35, \
        word(files, at) using 1:4 with steps lc rgb word(colours, at) lw 1, \
        mark using (($1 + $2) / 2):(top * 0.6):3 with labels font 'sans-serif,11' textcolor rgb '#333333' notitle
}
unset multiplot
