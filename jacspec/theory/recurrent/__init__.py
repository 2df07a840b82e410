"""Mean field of recurrent networks as their width goes to infinity: rate networks, gated cells, linear units."""

from jacspec.theory.recurrent._gates import CriticalPoint as CriticalPoint
from jacspec.theory.recurrent._gates import GatedMeanField as GatedMeanField
from jacspec.theory.recurrent.gru import gru as gru
from jacspec.theory.recurrent.gru import gru_critical as gru_critical
from jacspec.theory.recurrent.gru import minimal_rnn as minimal_rnn
from jacspec.theory.recurrent.linear import ar1_second_moment as ar1_second_moment
from jacspec.theory.recurrent.linear import ar1_sensitivity as ar1_sensitivity
from jacspec.theory.recurrent.linear import irnn_exponents as irnn_exponents
from jacspec.theory.recurrent.linear import lru_exponents as lru_exponents
from jacspec.theory.recurrent.linear import lru_gain as lru_gain
from jacspec.theory.recurrent.linear import lru_nu as lru_nu
from jacspec.theory.recurrent.lstm import lstm as lstm
from jacspec.theory.recurrent.lstm import lstm_critical as lstm_critical
from jacspec.theory.recurrent.origin import gru_origin_spectrum as gru_origin_spectrum
from jacspec.theory.recurrent.origin import leaky_origin_spectrum as leaky_origin_spectrum
from jacspec.theory.recurrent.origin import lstm_origin_spectrum as lstm_origin_spectrum
from jacspec.theory.recurrent.rate import RateNetwork as RateNetwork
from jacspec.theory.recurrent.rate import rate_network as rate_network
from jacspec.theory.recurrent.rate import rate_spectrum as rate_spectrum
